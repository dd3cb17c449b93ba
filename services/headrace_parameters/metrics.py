"""What the parameter service counts, for Prometheus."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace_parameters.journal.journal import Observers
from headrace_parameters.live import LiveStore
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.table_metrics import HeldTables

_WAIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
_LONG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ParameterMetrics:
    """Counters of what passes, gauges of what is held.

    Args:
        stores: Returns what is held; asked at every scrape, so that a deleted store leaves no line behind.
    """

    def __init__(self, registry: CollectorRegistry, stores: Callable[[], Iterable[LiveStore]]) -> None:
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
        registry.register(_HeldStores(stores))
        registry.register(HeldTables(stores))


class _HeldStores(Collector):
    def __init__(self, stores: Callable[[], Iterable[LiveStore]]) -> None:
        self._stores = stores

    def collect(self) -> Iterator[Metric]:
        size = GaugeMetricFamily(
            "headrace_parameters_store_bytes", "Memory of values and optimizer state.", labels=["store"]
        )
        version = GaugeMetricFamily(
            "headrace_parameters_store_version", "Optimizer updates applied.", labels=["store"]
        )
        log_bytes = GaugeMetricFamily(
            "headrace_parameters_log_bytes", "Bytes of a durable store's log on the disk.", labels=["store"]
        )
        lag = GaugeMetricFamily(
            "headrace_parameters_log_lag_bytes",
            "Bytes of the log that are not known to survive the machine.",
            labels=["store"],
        )
        synced = GaugeMetricFamily(
            "headrace_parameters_replica_synced",
            "1 if the replica of a primary has all that was acknowledged.",
            labels=["store"],
        )
        behind = GaugeMetricFamily(
            "headrace_parameters_replica_lag_records",
            "Records that a primary's replica is not known to hold.",
            labels=["store"],
        )
        for store in self._stores():
            label = [str(store.config.name)]
            size.add_metric(label, store.size_bytes)
            version.add_metric(label, store.published.version if store.published else 0)
            if store.journal:
                log_bytes.add_metric(label, store.journal.log_bytes)
                lag.add_metric(label, store.journal.lag_bytes)
            if isinstance(store, ReplicatedStore) and store.replicated.tenure.replica:
                synced.add_metric(label, store.replicated.tenure.synced)
                behind.add_metric(label, store.replicated.lag_records)
        yield from (size, version, log_bytes, lag, synced, behind)


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
