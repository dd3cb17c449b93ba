"""HTTP/2 frames by hand, for callers who do what no library lets them do."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Self

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATIENCE_S = 20.0

Header = tuple[bytes, bytes]


class Frame(NamedTuple):
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(headers: Sequence[Header]) -> bytes:
    """Write headers as literals that are not indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes((len(value),)) + value
    rest, more = len(value) - 127, bytearray((127,))
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    more.append(rest)
    return bytes(more) + value


def request_headers(path: str, *more: Header) -> list[Header]:
    """Return the headers of a gRPC request."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


def message(data: bytes) -> bytes:
    """Put gRPC's prefix before a message."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Wire:
    """A connection to a server."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE_S)
        self._received = b""

    def greet(self) -> Self:
        """Send the preface and empty settings."""
        return self.send(PREFACE + frame(SETTINGS))

    def send(self, data: bytes) -> Self:
        """Send bytes; a server that has hung up is told nothing."""
        with suppress(ConnectionError):
            self._socket.sendall(data)
        return self

    def call(self, stream: int, path: str, body: bytes, *more: Header) -> Self:
        """Send a whole request."""
        headers = frame(HEADERS, END_HEADERS, stream, literal(request_headers(path, *more)))
        return self.send(headers + frame(DATA, END_STREAM, stream, body))

    def frames(self) -> Iterator[Frame]:
        """Read frames until the server hangs up."""
        while (header := self._take(9)) is not None:
            payload = self._take(int.from_bytes(header[:3], "big"))
            if payload is None:
                return
            yield Frame(header[3], header[4], int.from_bytes(header[5:], "big"), payload)

    def next(self, *kinds: int) -> Frame:
        """Read on to a frame of one of these kinds."""
        found = next(
            (one for one in self.frames() if one.kind in kinds and not (one.kind == SETTINGS and one.flags)),
            None,
        )
        assert found is not None, f"the server hung up before any of {kinds}"
        return found

    def is_closed(self) -> bool:
        """Read on until the server hangs up; a TimeoutError if it does not."""
        for _ in self.frames():
            pass
        return True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _take(self, size: int) -> bytes | None:
        while len(self._received) < size:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._received += data
        taken, self._received = self._received[:size], self._received[size:]
        return taken


@contextmanager
def wire(address: str) -> Iterator[Wire]:
    """Connect and greet, and hang up in the end."""
    connected = Wire(address)
    try:
        yield connected.greet()
    finally:
        connected.close()
