"""The observer of calls: their metrics."""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from headrace.rpc.layers import Call

# From a parameter push on loopback to an upload that takes minutes.
LATENCY_BUCKETS_S = (
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
    5,
    10,
    30,
    60,
    300,
)


class RpcMetrics(Collector):
    """The observer that counts and times calls, by method and code.

    It has numbers of its own, one lock for all of a method's, which it writes as series when somebody asks: the client library's own
    classes take five locks a call, and five times the time.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._methods: dict[str, _Method] = {}
        registry.register(self)

    def enter(self, call: Call) -> None:
        """Begin to count one call."""
        call.began = time.perf_counter()
        method = self._methods.get(call.method)
        if method is None:  # only methods that are served come here
            method = self._methods.setdefault(call.method, _Method())
        with method.lock:
            method.in_flight += 1

    def leave(self, call: Call) -> None:
        """Count it."""
        seconds, code = time.perf_counter() - call.began, call.code
        method = self._methods[call.method]
        with method.lock:
            method.in_flight -= 1
            method.seconds += seconds
            method.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
            method.handled[code] += 1

    def collect(self) -> Iterator[Metric]:
        """Write the series."""
        handled = CounterMetricFamily("headrace_rpc_handled", "Calls that ended.", labels=["method", "code"])
        seconds = HistogramMetricFamily(
            "headrace_rpc_seconds", "Time from a call's first message to its end.", labels=["method"]
        )
        in_flight = GaugeMetricFamily("headrace_rpc_in_flight", "Calls being served now.", labels=["method"])
        for path, method in list(self._methods.items()):
            name = path.lstrip("/")
            with method.lock:
                in_flight.add_metric([name], method.in_flight)
                seconds.add_metric([name], method.cumulative(), method.seconds)
                for code, count in method.handled.items():
                    handled.add_metric([name, code], count)
        yield from (handled, seconds, in_flight)


class _Method:
    """What is counted of one method; its lock is held for all of it."""

    __slots__ = ("buckets", "handled", "in_flight", "lock", "seconds")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.in_flight = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.handled: Counter[str] = Counter()

    def cumulative(self) -> list[tuple[str, float]]:
        """Return how many calls took no longer than each bound."""
        bounds = [*(str(float(bound)) for bound in LATENCY_BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.buckets), strict=True))
