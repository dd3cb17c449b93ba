"""What the inference service counts, for Prometheus, by project and model."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from headrace_inference.core.catalog import Key

_LABELS = ("project", "model")
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
_SECONDS = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    10,
)


class ModelMetrics:
    """Requests, batches and times of every loaded model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "headrace_inference_requests",
            "Requests for a loaded model, by outcome: OK or the reason of the error.",
            [*_LABELS, "outcome"],
            registry=registry,
        )
        self._rows = Histogram(
            "headrace_inference_batch_rows",
            "Rows that ran together.",
            _LABELS,
            buckets=_ROWS,
            registry=registry,
        )
        self._queued = Histogram(
            "headrace_inference_queue_seconds",
            "Time a request waited for a worker.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )
        self._ran = Histogram(
            "headrace_inference_run_seconds",
            "Time a batch ran.",
            _LABELS,
            buckets=_SECONDS,
            registry=registry,
        )

        self._waiting = Gauge(
            "headrace_inference_waiting", "Requests in the queue now.", _LABELS, registry=registry
        )

    def watch(self, key: Key, waiting: Callable[[], int]) -> None:
        """Ask `waiting` at every scrape how long the queue of a model is."""
        self._waiting.labels(key.project, key.model).set_function(waiting)

    def count(self, key: Key, outcome: str) -> None:
        """Count a request that has been answered or refused."""
        self._requests.labels(key.project, key.model, outcome).inc()

    def of(self, key: Key) -> "BatchMetrics":
        """Return what observes the batches of one model."""
        labels = (key.project, key.model)
        return BatchMetrics(
            self._rows.labels(*labels), self._queued.labels(*labels), self._ran.labels(*labels)
        )

    def forget(self, key: Key) -> None:
        """Drop the lines of a model that is gone, so that names that come and go do not add up."""
        labels = {"project": key.project, "model": key.model}
        families: tuple[MetricWrapperBase, ...] = (
            self._requests,
            self._rows,
            self._queued,
            self._ran,
            self._waiting,
        )
        for family in families:
            family.remove_by_labels(labels)


class BatchMetrics:
    """An `engine.Observer` that counts."""

    def __init__(self, rows: Histogram, queued: Histogram, ran: Histogram) -> None:
        self._rows = rows
        self._queued = queued
        self._ran = ran

    def ran(self, rows: int, queued_s: Sequence[float], run_s: float) -> None:
        """Count one batch."""
        self._rows.observe(rows)
        self._ran.observe(run_s)
        for seconds in queued_s:
            self._queued.observe(seconds)
