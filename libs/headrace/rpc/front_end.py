"""What stands between the network and the handlers of a server: grpcio's own, or the turbo one, behind one seam."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc

from headrace.rpc.layers import FindHandler


class FrontEnd(Protocol):
    """Accepts calls and has handlers answer them."""

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Accept connections at `host:port` once it has started, by TLS with credentials, and return the real port; OSError if that cannot be."""

    def start(self) -> None:
        """Begin to accept."""

    def stop(self, grace_s: float | None) -> threading.Event:
        """Accept nothing more, let calls end for so many seconds (None: not at all), then close; the event tells when that is done."""

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has stopped; return whether it has."""


class GrpcioFrontEnd:
    """grpcio's server: the reference.

    Args:
        find: Returns the handler of a method, layers included, or None.
        threads: Calls that are served at a time; one more is refused.
        options: gRPC's.
    """

    def __init__(self, find: FindHandler, threads: int, options: list[tuple[str, int]]) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            handlers=[_Handlers(find)],
            options=options,
            maximum_concurrent_rpcs=threads,  # as many as threads, so that no call waits unseen in a queue
        )

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Accept connections at `host:port` once it has started, and return the real port."""
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:  # somebody was faster
            raise OSError(f"{error}") from error

    def start(self) -> None:
        """Begin to accept."""
        self._server.start()

    def stop(self, grace_s: float | None) -> threading.Event:
        """Accept nothing more, let calls end for so many seconds (None: not at all), then close."""
        return self._server.stop(grace_s)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has stopped; return whether it has."""
        return not self._server.wait_for_termination(timeout_s)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, find: FindHandler) -> None:
        self._find = find

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Find the handler of a call."""
        return self._find(handler_call_details.method)
