"""What the parameter service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from headrace_parameters.journal.journal import Observers

_WAIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
_LONG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ParameterMetrics:
    """What passes through the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pushes = Counter(
            "headrace_parameters_pushes",
            "Gradients taken, applied or kept for their step.",
            registry=registry,
        )
        self.duplicates = Counter(
            "headrace_parameters_duplicates", "Gradients that had been taken before.", registry=registry
        )
        self.pulls = Counter("headrace_parameters_pulls", "Answers with values.", registry=registry)
        self.not_modified = Counter(
            "headrace_parameters_not_modified",
            "Answers without values: the caller had the newest.",
            registry=registry,
        )
        self.received_bytes = Counter(
            "headrace_parameters_received_bytes", "Bytes of gradients and first values.", registry=registry
        )
        self.sent_bytes = Counter(
            "headrace_parameters_sent_bytes", "Bytes of values sent.", registry=registry
        )
        self.wait_seconds = Histogram(
            "headrace_parameters_wait_seconds",
            "Time a pull waited for its version: under BSP, for the other workers.",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.staleness = Histogram(
            "headrace_parameters_staleness_steps",
            "Steps that the slowest worker's contribution in pulled values is behind the puller's step.",
            labelnames=["consistency"],
            buckets=_STALENESS_BUCKETS,
            registry=registry,
        )


def journal_observers(registry: CollectorRegistry) -> Observers:
    """Make the histograms of what durable stores do with the disk."""
    force = Histogram(
        "headrace_parameters_fsync_seconds",
        "Time to force the log to the disk, once for all pushes that waited.",
        buckets=_WAIT_BUCKETS_S,
        registry=registry,
    )
    snapshot = Histogram(
        "headrace_parameters_snapshot_seconds",
        "Time to write a snapshot in the background.",
        buckets=_LONG_BUCKETS_S,
        registry=registry,
    )
    recovery = Histogram(
        "headrace_parameters_recovery_seconds",
        "Time to recover one store at the start of the process.",
        buckets=_LONG_BUCKETS_S,
        registry=registry,
    )
    return Observers(force.observe, snapshot.observe, recovery.observe)
