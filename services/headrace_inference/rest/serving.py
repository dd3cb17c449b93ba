"""HTTP served by uvicorn, in a thread of the process whose main thread waits for signals."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from headrace.rpc.addresses import is_loopback, join_address, split_address
from headrace.rpc.server import AddressUnavailable
from headrace_inference.rest.app import Gateway

log = structlog.get_logger()

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
CLOSING_S = 2  # for answers on their way, when the process ends


@contextmanager
def serve_http(
    address: str, *, grpc_address: str, max_connections: int, max_body_bytes: int
) -> Iterator[str]:
    """Answer HTTP at an address as long as this is entered; give the real one.

    Args:
        address: `host:port`; port 0 takes a free one.
        grpc_address: Of the service that does the work.
        max_connections: One more is answered with 503.
        max_body_bytes: Largest body of a request.
    Raises:
        AddressUnavailable: Something else listens there, or the host is not of this machine.
    """
    listening = _listen(address)
    host, _ = split_address(address)
    real = join_address(host, listening.getsockname()[1])
    config = uvicorn.Config(
        Gateway(grpc_address, max_body_bytes, LOCAL_HOSTS if is_loopback(address) else ["*"]).app(),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="http", daemon=True)
    thread.start()
    log.info("listening_http", address=real)
    try:
        yield real
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()  # from now on callers wait, instead of being refused, until the thread is there
    except OSError as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error.strerror}") from error
    return listening
