"""The observer of calls: their metrics."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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


class RpcMetrics:
    """The observer that counts and times calls, by method and code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._handled = Counter(
            "headrace_rpc_handled", "Calls that ended.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "headrace_rpc_seconds",
            "Time from a call's first message to its end.",
            ["method"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._in_flight = Gauge(
            "headrace_rpc_in_flight", "Calls being served now.", ["method"], registry=registry
        )
        self._methods: dict[str, _Method] = {}

    def enter(self, call: Call) -> None:
        """Begin to count one call."""
        call.began = time.perf_counter()
        self._method(call.method).in_flight.inc()

    def leave(self, call: Call) -> None:
        """Count it."""
        method = self._method(call.method)
        method.in_flight.dec()
        method.seconds.observe(time.perf_counter() - call.began)
        method.handled(call.code).inc()

    def _method(self, path: str) -> "_Method":
        """Find what is counted of a method; only those that are served come here."""
        method = self._methods.get(path)
        if method is None:
            name = path.lstrip("/")
            method = self._methods[path] = _Method(
                self._in_flight.labels(name),
                self._seconds.labels(name),
                cache(partial(self._handled.labels, name)),
            )
        return method


@dataclass(frozen=True)
class _Method:
    """The series of one method: finding them takes as long as counting."""

    in_flight: Gauge
    seconds: Histogram
    handled: Callable[[str], Counter]
