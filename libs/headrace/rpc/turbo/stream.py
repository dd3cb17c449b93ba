"""One call's place on its connection, between the frames and whoever answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.errors import HeadraceError
from headrace.rpc.turbo.headers import ENCODINGS, IDENTITY, OK, RESPONSE, Head, Header, trailers_of_error
from headrace.rpc.turbo.messages import Deframer

if TYPE_CHECKING:
    from headrace.rpc.turbo.connection import Connection

STREAM_WINDOW = 1 << 20
_CANCEL = 0x08
_RESPONSES = {
    encoding: RESPONSE if encoding == IDENTITY else (*RESPONSE, (b"grpc-encoding", encoding))
    for encoding in ENCODINGS
}


class Call(Protocol):
    """A call in the making, told what its caller sends."""

    def message(self, data: bytes) -> None:
        """Take the next message."""

    @property
    def wants_more(self) -> bool:
        """Whether its caller may send on; if not, `Stream.go_on` when that has changed."""

    def half_closed(self) -> None:
        """Take note that no message follows."""

    def gone(self) -> None:
        """Take note that nobody waits any more."""

    def room(self) -> None:
        """Take note that more may be sent, after `Stream.send` said that it was enough."""


class Dispatch(Protocol):
    """Finds who answers."""

    def begin(self, head: Head, stream: Stream) -> Call:
        """Begin a call; HeadraceError if it is refused."""


class Stream:
    """One call's place on its connection. Only the loop's thread uses it.

    Args:
        number: The HTTP/2 stream's.
        encoding: Of the answer's messages, if they are compressed.
    """

    __slots__ = (
        "_begun",
        "_deframer",
        "_half_closed",
        "_held",
        "call",
        "connection",
        "encoding",
        "number",
        "over",
        "timer",
    )

    def __init__(self, connection: Connection, number: int, deframer: Deframer, encoding: bytes) -> None:
        self.connection = connection
        self.number = number
        self.encoding = encoding
        self._deframer = deframer
        self._begun = self._half_closed = False
        self._held = 0  # bytes that have come, and that the caller was not told to send on for
        self.over = False
        self.call: Call | None = None
        self.timer: asyncio.TimerHandle | None = None

    def received(self, data: bytes, *, end: bool) -> None:
        """Take bytes of the request."""
        call = self.call
        assert call is not None
        for message in self._deframer.feed(data) if data else ():
            call.message(message)
            if self.over:
                return
        self._held += len(data)
        if call.wants_more:
            self.go_on()
        if end:
            self._half_closed = True
            call.half_closed()

    @property
    def half_closed(self) -> bool:
        """Whether the caller has sent everything."""
        return self._half_closed

    def begin(self, headers: Sequence[Header] = ()) -> None:
        """Send the headers of the answer, once."""
        if not (self._begun or self.over):
            self._begun = True
            connection = self.connection
            connection.session.send_response(
                self.number, (*_RESPONSES[self.encoding], *headers) if headers else _RESPONSES[self.encoding]
            )
            connection.flush_soon()

    def send(self, framed: bytes) -> bool:
        """Send a message; return False if that is enough, until `Call.room`."""
        if self.over:
            return True
        self.begin()
        return self.connection.send(self.number, framed)

    def answer(self, framed: bytes, trailers: Sequence[Header]) -> None:
        """Send the only message, and how the call ended."""
        if self.over:
            return
        self.begin()
        session = self.connection.session
        session.send_data(self.number, framed)
        session.send_trailers(self.number, trailers)
        self.connection.finished(self)

    def finish(self, trailers: Sequence[Header] = OK) -> None:
        """Send how the call ended, and forget it."""
        if self.over:
            return
        session = self.connection.session
        if self._begun:
            session.send_trailers(self.number, trailers)
        else:  # "Trailers-Only"
            session.send_response(self.number, (*RESPONSE, *trailers), end_stream=True)
        self.connection.finished(self)

    def fail(self, error: HeadraceError) -> None:
        """End the call with an error."""
        self.finish(trailers_of_error(error))

    def reset(self, code: int = _CANCEL) -> None:
        """Break the call off."""
        if not self.over:
            self.connection.session.reset_stream(self.number, code)
            self.connection.finished(self)

    def go_on(self) -> None:
        """Let the caller send as much as has come."""
        if not self.over:
            held, self._held = self._held, 0
            self.connection.used(self.number, held)
