"""The layers that watch: log fields of a call, and its metrics."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.rpc import context
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
MAX_REQUEST_ID = 128  # characters; an id is for reading, and it is repeated in every line


@contextmanager
def logged(call: Call) -> Iterator[None]:
    """Bind the rpc, the caller's address and the request id to every line that is logged during the call."""
    request_id = call.metadata(context.REQUEST_ID_METADATA)[:MAX_REQUEST_ID] or uuid.uuid4().hex
    token = context.request_id.set(request_id)
    try:
        with structlog.contextvars.bound_contextvars(
            rpc=call.method.lstrip("/"), peer=call.context.peer(), request_id=request_id
        ):
            yield
    finally:
        context.request_id.reset(token)


class RpcMetrics:
    """The layer that counts and times calls, by method and code."""

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

    @contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        """Count one call."""
        method = call.method.lstrip("/")
        started = time.perf_counter()
        in_flight = self._in_flight.labels(method)
        in_flight.inc()
        try:
            yield
        finally:
            in_flight.dec()
            self._seconds.labels(method).observe(time.perf_counter() - started)
            self._handled.labels(method, call.code).inc()
