"""What the tables of all stores hold, for Prometheus."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace_parameters.live import LiveStore

_LABELS = ["store", "table"]
_PREFIX = "headrace_parameters_table_"


class HeldTables(Collector):
    """Gauges and counters by store and table.

    Args:
        stores: Returns what is held; asked at every scrape, so that a deleted store leaves no line behind.
    """

    def __init__(self, stores: Callable[[], Iterable[LiveStore]]) -> None:
        self._stores = stores

    def collect(self) -> Iterator[Metric]:
        """Return what there is now."""
        rows = GaugeMetricFamily(f"{_PREFIX}rows", "Rows held.", labels=_LABELS)
        size = GaugeMetricFamily(f"{_PREFIX}bytes", "Memory of rows, their state and index.", labels=_LABELS)
        version = GaugeMetricFamily(f"{_PREFIX}version", "Optimizer updates applied.", labels=_LABELS)
        created = _counter("created_rows", "Rows made by first pushes.")
        evicted = _counter("evicted_rows", "Rows forgotten by number or age.")
        touched = _counter("touched_rows", "Rows that pushes changed.")
        pulled = _counter("pulled_rows", "Rows in answers.")
        for store in self._stores():
            for name, table in store.tables.items():
                labels, facts = [str(store.config.name), name], table.facts()
                rows.add_metric(labels, facts.rows)
                size.add_metric(labels, facts.size_bytes)
                version.add_metric(labels, facts.version)
                created.add_metric(labels, facts.counts.created)
                evicted.add_metric(labels, facts.counts.evicted)
                touched.add_metric(labels, facts.counts.touched)
                pulled.add_metric(labels, facts.counts.pulled)
        yield from (rows, size, version, created, evicted, touched, pulled)


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(
        _PREFIX + name, f"{text} Since the table was made or restored.", labels=_LABELS
    )
