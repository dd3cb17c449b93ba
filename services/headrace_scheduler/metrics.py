"""What the scheduler shows to Prometheus: how much there is in each state, counted at every scrape."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace_scheduler.core.tables import Tables
from headrace_scheduler.engine import Engine


def register(registry: CollectorRegistry, engine: Engine) -> None:
    """Show the engine's state in a registry of metrics."""
    registry.register(_State(engine))


class _State(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "jobs",
            "Jobs that are not over, or whose remains are being cleared away.",
            ("kind", "state"),
            self._labels(lambda tables: [(job.kind, job.state) for job in tables.jobs.values()]),
        )
        yield _gauge(
            "nodes",
            "Nodes.",
            ("kind", "state"),
            self._labels(lambda tables: [(node.kind, node.state) for node in tables.nodes.values()]),
        )
        yield _gauge(
            "deployments",
            "Deployments.",
            ("state",),
            self._labels(lambda tables: [(deployment.state,) for deployment in tables.deployments.values()]),
        )

    def _labels(self, look: Callable[[Tables], list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
        return self._engine.read(look)


def _gauge(name: str, meaning: str, labels: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Metric:
    gauge = GaugeMetricFamily(f"headrace_scheduler_{name}", meaning, labels=labels)
    for values, count in sorted(Counter(rows).items()):
        gauge.add_metric([str(value) for value in values], count)
    return gauge
