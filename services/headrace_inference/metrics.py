"""What the inference service tells Prometheus, by project, model and version: the statistics of the models, read at each scrape."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from headrace_inference.core.catalog import Key
from headrace_inference.statistics import BatchStatistics, Distribution, Statistics

_LABELS = ("project", "model", "version")
_Labels = tuple[str, str, str]
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True)
class _Watched:
    statistics: BatchStatistics
    waiting: Callable[[], int]


class ModelMetrics(Collector):
    """The lines of every loaded model; thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._watched: dict[_Labels, _Watched] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def watch(self, key: Key, version: str, statistics: BatchStatistics, waiting: Callable[[], int]) -> None:
        """Tell of a version of a model from now on; `waiting` says how long its queue is."""
        with self._lock:
            self._watched[key.project, key.model, version] = _Watched(statistics, waiting)

    def forget(self, key: Key, version: str, statistics: BatchStatistics) -> None:
        """Drop the lines of a version that is gone, so that versions that come and go do not add up."""
        labels = (key.project, key.model, version)
        with self._lock:
            # The same version may be there again, from another file: its lines stay.
            if labels in self._watched and self._watched[labels].statistics is statistics:
                del self._watched[labels]

    def collect(self) -> Iterator[_Family]:
        """Yield every family with the lines of all models."""
        with self._lock:
            watched = dict(self._watched)
        families = _Families()
        for labels, one in watched.items():
            families.add(labels, one.statistics.snapshot(), one.waiting())
        yield from families.all

    def describe(self) -> Iterator[_Family]:
        """Yield the families without lines, for the registry to know their names."""
        yield from _Families().all


class _Families:
    def __init__(self) -> None:
        self._requests = _counter("requests", "Requests for a loaded model.", "outcome")
        self._cuts = _counter("batches", "Batches that ran, by why they were not larger.", "cut")
        self._elements = _counter("padded_elements", "Elements of inputs that are padded, padding included.")
        self._padding = _counter("padding_elements", "Elements of padding among these.")
        self._rows = _histogram("batch_rows", "Rows that ran together.")
        self._queued = _histogram("queue_seconds", "Time a request waited for a worker.")
        self._ran = _histogram("run_seconds", "Time a batch ran.")
        self._waiting = GaugeMetricFamily(_name("waiting"), "Requests in the queue now.", labels=_LABELS)

    @property
    def all(self) -> tuple[_Family, ...]:
        counters = (self._requests, self._cuts, self._elements, self._padding)
        return (*counters, self._rows, self._queued, self._ran, self._waiting)

    def add(self, labels: _Labels, seen: Statistics, waiting: int) -> None:
        self._requests.add_metric((*labels, "OK"), seen.success.count)
        for reason, duration in seen.failures.items():
            self._requests.add_metric((*labels, reason), duration.count)
        for cut, count in seen.cuts.items():
            self._cuts.add_metric((*labels, cut.value), count)
        self._elements.add_metric(labels, seen.elements)
        self._padding.add_metric(labels, seen.padding)
        for family, values in (
            (self._rows, seen.rows),
            (self._queued, seen.queued),
            (self._ran, seen.ran),
        ):
            family.add_metric(labels, list(_buckets(values)), values.sum)
        self._waiting.add_metric(labels, waiting)


def _buckets(values: Distribution) -> Iterator[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in values.bounds), "+Inf"]
    yield from zip(names, values.counts, strict=True)


def _name(name: str) -> str:
    return f"headrace_inference_{name}"


def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_name(name), what, labels=(*_LABELS, *labels))


def _histogram(name: str, what: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(_name(name), what, labels=_LABELS)
