"""What each store holds and does, for Prometheus."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace_parameters.live import LiveStore
from headrace_parameters.metering import Meter
from headrace_parameters.metrics import ParameterMetrics
from headrace_parameters.quotas import Quotas
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.table import StoreTable
from headrace_parameters.table_metrics import HeldTables

_PREFIX = "headrace_parameters_"


def measured(registry: CollectorRegistry, table: StoreTable, quotas: Quotas) -> Meter:
    """Make the meter of a process, and let `registry` show what it and the stores have."""
    meter = Meter(ParameterMetrics(registry), quotas, lambda: [store.config for store in table.all()])
    registry.register(HeldStores(table.all, meter))
    registry.register(HeldTables(table.all))
    return meter


class HeldStores(Collector):
    """Gauges and counters by store: as many as the process may hold (SLOTS), and none of a store that is gone.

    Args:
        stores: Returns what is held; asked at every scrape.
    """

    def __init__(self, stores: Callable[[], Iterable[LiveStore]], meter: Meter) -> None:
        self._stores = stores
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        """Return what there is now."""
        size = _gauge("store_bytes", "Memory of values and optimizer state.")
        resident = _gauge("store_resident_bytes", "The same, and all versions and gradients kept in memory.")
        version = _gauge("store_version", "Optimizer updates applied.")
        lag = _gauge("store_lag_steps", "How many steps the slowest worker is behind the furthest.")
        staleness = _gauge("store_staleness_steps", "Staleness of the last answer with values.")
        log_bytes = _gauge("log_bytes", "Bytes of a durable store's log on the disk.")
        log_lag = _gauge("log_lag_bytes", "Bytes of the log that are not known to survive the machine.")
        synced = _gauge("replica_synced", "1 if the replica of a primary has all that was acknowledged.")
        behind = _gauge("replica_lag_records", "Records that a primary's replica is not known to hold.")
        for store in self._stores():
            label, published = [str(store.config.name)], store.published
            size.add_metric(label, store.size_bytes)
            resident.add_metric(label, _resident_bytes(store))
            version.add_metric(label, published.version if published else 0)
            lag.add_metric(label, published.furthest - published.slowest if published else 0)
            staleness.add_metric(label, self._meter.of(store.config).staleness)
            if store.journal:
                log_bytes.add_metric(label, store.journal.log_bytes)
                log_lag.add_metric(label, store.journal.lag_bytes)
            if isinstance(store, ReplicatedStore) and store.replicated.tenure.replica:
                synced.add_metric(label, store.replicated.tenure.synced)
                behind.add_metric(label, store.replicated.lag_records)
        yield from (size, resident, version, lag, staleness, log_bytes, log_lag, synced, behind)
        yield from self._traffic()

    def _traffic(self) -> Iterator[Metric]:
        counters = {
            name: CounterMetricFamily(
                f"{_PREFIX}store_{name}", f"{text} Since the store was made.", labels=["store"]
            )
            for name, text in _TRAFFIC.items()
        }
        for store in self._stores():
            traffic = self._meter.of(store.config)
            for name, counter in counters.items():
                counter.add_metric([str(store.config.name)], getattr(traffic, name))
        yield from counters.values()


_TRAFFIC = {
    "pushes": "Gradients taken.",
    "duplicates": "Gradients that had no effect: they had been taken before, or came too late.",
    "pulls": "Answers with values.",
    "not_modified": "Answers that the caller has the newest values.",
    "received_bytes": "Bytes of gradients and first values.",
    "sent_bytes": "Bytes of values.",
}


def _resident_bytes(store: LiveStore) -> int:
    """Return the memory of the dense part: all versions and gradients that are kept, and optimizer state."""
    values = store.published.values.nbytes if store.published else 0
    return store.size_bytes - values + store.memory.size_bytes + store.received.size_bytes


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=["store"])
