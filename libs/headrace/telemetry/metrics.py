"""Metrics of a process, for Prometheus.

Every process has a registry of its own; what counts something takes it as an argument:

    pushes = Counter("headrace_pushes", "Gradients applied.", ["store"], registry=process.metrics)
"""

from collections.abc import Callable

from prometheus_client import (
    GC_COLLECTOR,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from headrace.rpc.addresses import join_address, split_address


def new_registry() -> CollectorRegistry:
    """Return a registry that already tells about the interpreter, its memory and its processor time."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(GC_COLLECTOR)
    return registry


def serve_metrics(address: str, registry: CollectorRegistry) -> tuple[str, Callable[[], None]]:
    """Answer `GET /metrics` at `address` (`host:port`, port 0 takes a free one) in a thread.

    Returns:
        The real address, and a function that stops it.
    Raises:
        OSError: Something else listens there, or the host is not of this machine.
    """
    host, port = split_address(address)
    server, thread = start_http_server(port, host, registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return join_address(host, server.server_port), close
