"""A TCP proxy on loopback whose connections a test can break."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from headrace.rpc.addresses import split_address


class BreakingProxy:
    """Forwards bytes to and from `target`; cuts a connection, once, after so many bytes of requests or of replies."""

    def __init__(self, target: str, *, requests: int, replies: int) -> None:
        self.broken = threading.Event()
        self._target = split_address(target)
        self._left = {"requests": requests, "replies": replies}
        self._given = requests + replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def passed(self) -> int:
        """Bytes that went through, both ways."""
        return self._given - sum(self._left.values())

    def close(self) -> None:
        for each in self._sockets:
            _shut(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inward, _ = self._listener.accept()
                outward = socket.create_connection(self._target)
                self._sockets += [inward, outward]
                threading.Thread(
                    target=self._forward, args=(inward, outward, "requests"), daemon=True
                ).start()
                threading.Thread(target=self._forward, args=(outward, inward, "replies"), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, what: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._left[what] -= len(data)
                if self._left[what] < 0 and not self.broken.is_set():
                    self.broken.set()
                    break
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextmanager
def breaking_proxy(
    target: str, *, requests: int = 1 << 40, replies: int = 1 << 40
) -> Iterator[BreakingProxy]:
    proxy = BreakingProxy(target, requests=requests, replies=replies)
    try:
        yield proxy
    finally:
        proxy.close()
