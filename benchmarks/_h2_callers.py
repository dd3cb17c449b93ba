"""Callers of one unary rpc over one connection, as light as they can be: they measure a server, not themselves."""

import socket
import time
from collections.abc import Sequence

import ngh2

from headrace.rpc.turbo.messages import framed

_SETTINGS = {ngh2.Setting.ENABLE_PUSH: 0, ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 20}
_READ = 1 << 18


class Callers:
    """So many calls under way on one connection, each begun when another has been answered.

    Args:
        method: `/package.Service/Method`.
        request: The message that all send.
    """

    def __init__(self, address: str, method: str, request: bytes, callers: int) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = ngh2.Connection(
            ngh2.Role.CLIENT, ngh2.Configuration(peer_max_concurrent_streams=callers)
        )
        self._session.initiate_connection(_SETTINGS)
        self._headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
        self._body = framed(request)
        self._callers = callers
        self.latencies_s: list[float] = []

    def run(self, seconds: float) -> Sequence[float]:
        """Call for so long; return how long each call took, in seconds."""
        self.latencies_s = []
        began = {self._call(): time.perf_counter() for _ in range(self._callers)}
        end = time.perf_counter() + seconds
        while began:
            self._socket.sendall(self._session.data_to_send())
            self._session.receive_data(self._socket.recv(_READ))
            now = time.perf_counter()
            for event in self._session.events():
                if isinstance(event, ngh2.TrailersReceived):
                    _check(event.headers)
                    self.latencies_s.append(now - began.pop(event.stream_id))
                    if now < end:
                        began[self._call()] = now
        return self.latencies_s

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _call(self) -> int:
        number = self._session.send_request(self._headers)
        self._session.send_data(number, self._body, end_stream=True)
        return number


def _check(trailers: Sequence[tuple[bytes, bytes]]) -> None:
    if dict(trailers).get(b"grpc-status") != b"0":
        raise RuntimeError(f"a call failed: {dict(trailers)}")
