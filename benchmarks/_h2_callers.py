"""Callers of one unary rpc over one connection, as light as they can be: they measure a server, not themselves."""

import random
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import ngh2

from headrace.rpc.turbo.messages import framed

_SETTINGS = {ngh2.Setting.ENABLE_PUSH: 0, ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 20}
_READ = 1 << 18
_MOST_STREAMS = 4096
_OK = b"0"


class Connection:
    """One connection on which one message is sent to one rpc again and again; a context manager that hangs up.

    A server that asks whether anyone is there is answered only by `exchange`: open it shortly before use.

    Args:
        method: `/package.Service/Method`.
        request: The message.
        timeout_s: What each call tells the server of its deadline; None: nothing.
    """

    def __init__(self, address: str, method: str, request: bytes, timeout_s: float | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = ngh2.Connection(
            ngh2.Role.CLIENT, ngh2.Configuration(peer_max_concurrent_streams=_MOST_STREAMS)
        )
        self._session.initiate_connection(_SETTINGS)
        timeout = () if timeout_s is None else ((b"grpc-timeout", b"%dm" % (timeout_s * 1000)),)
        self._headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *timeout,
        )
        self._body = b"".join(framed(request))
        self._open: set[int] = set()
        for _ in (
            self.exchange()
        ):  # a server hangs up on who does not greet it; nobody has called yet, so nothing ends here
            pass
        self._socket.sendall(self._session.data_to_send())

    def call(self) -> int:
        """Begin a call, which leaves with the next `exchange`; return its number."""
        number = self._session.send_request(self._headers)
        self._session.send_data(number, self._body, end_stream=True)
        self._open.add(number)
        return number

    def exchange(self, wait_s: float | None = None) -> Iterator[tuple[int, bytes]]:
        """Send what waits to be sent, wait so long for answers (None: until one comes), and yield the calls that ended, with their status."""
        self._socket.sendall(self._session.data_to_send())
        if wait_s is not None and not select.select([self._socket], [], [], wait_s)[0]:
            return
        data = self._socket.recv(_READ)
        if not data:
            raise RuntimeError("the server hung up")
        self._session.receive_data(data)
        for event in self._session.events():
            for number, status in _ended(event):
                if number in self._open:
                    self._open.discard(number)
                    yield number, status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _ended(event: ngh2.Event) -> Iterator[tuple[int, bytes]]:
    """Yield the call that this ends, if any, and its status."""
    if isinstance(event, ngh2.StreamReset):
        yield event.stream_id, b"reset"
    elif isinstance(event, ngh2.TrailersReceived | ngh2.ResponseReceived):
        for name, value in event.headers:
            if name == b"grpc-status":  # an error may come without a body, its status in the head
                yield event.stream_id, value


class Callers:
    """So many calls under way on one connection, each begun when another has been answered.

    Args:
        method: `/package.Service/Method`.
        request: The message that all send.
    """

    def __init__(self, address: str, method: str, request: bytes, callers: int) -> None:
        self._open = partial(Connection, address, method, request)
        self._callers = callers
        self.latencies_s: list[float] = []

    def run(self, seconds: float) -> Sequence[float]:
        """Call for so long; return how long each call took, in seconds."""
        self.latencies_s = []
        with self._open() as connection:
            began = {connection.call(): time.perf_counter() for _ in range(self._callers)}
            end = time.perf_counter() + seconds
            while began:
                for number, status in connection.exchange():
                    now = time.perf_counter()
                    if status != _OK:
                        raise RuntimeError(f"a call ended with status {status.decode()}")
                    self.latencies_s.append(now - began.pop(number))
                    if now < end:
                        began[connection.call()] = now
        return self.latencies_s


@dataclass(frozen=True)
class Outcome:
    """How calls ended that came at times of their own: seconds from when each was due until it was answered or refused."""

    answered_s: list[float]
    refused_s: list[float]


class Arrivals:
    """Calls that come as they do from many independent people: at random times, whether others have been answered or not.

    Latency counts from when a call was due, so that a server that stops is not spared the calls that would have come.

    Args:
        timeout_s: As in `Connection`.
        seed: Of the times between arrivals, which are exponential (a Poisson process).
    """

    def __init__(
        self, address: str, method: str, request: bytes, *, timeout_s: float | None = None, seed: int = 0
    ) -> None:
        self._open = partial(Connection, address, method, request, timeout_s)
        self._random = random.Random(seed)

    def run(self, rate: float, seconds: float) -> Outcome:
        """Let `rate` calls a second come for so long, and wait for the last to end."""
        outcome = Outcome([], [])
        under_way: dict[int, float] = {}
        with self._open() as connection:
            due = begin = time.perf_counter()
            while under_way or due < begin + seconds:
                now = time.perf_counter()
                while due <= now and due < begin + seconds:
                    under_way[connection.call()] = due
                    due += self._random.expovariate(rate)
                wait_s = max(0.0, due - time.perf_counter()) if due < begin + seconds else None
                for number, status in connection.exchange(wait_s):
                    took_s = time.perf_counter() - under_way.pop(number)
                    (outcome.answered_s if status == _OK else outcome.refused_s).append(took_s)
        return outcome
