"""One call's place on its connection, between the frames and whoever answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import ngh2

from headrace.errors import HeadraceError
from headrace.rpc.turbo.headers import ENCODINGS, IDENTITY, OK, RESPONSE, Head, Header, trailers_of_error
from headrace.rpc.turbo.messages import Deframer

if TYPE_CHECKING:
    from headrace.rpc.turbo.connection import Connection

_CANCELLED = ((b"grpc-status", b"1"), (b"grpc-message", b"CANCELLED"))
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

    @property
    def waiting_bytes(self) -> int:
        """How many bytes it keeps that no handler has."""

    def half_closed(self) -> None:
        """Take note that no message follows."""

    def gone(self) -> None:
        """Take note that nobody waits any more."""

    def room(self) -> None:
        """Take note that more may be sent, after `Stream.send` said that it was enough."""


class Dispatch(Protocol):
    """Finds who answers, and knows who is there."""

    def opened(self, connection: Connection) -> None:
        """Take note of a connection."""

    def lost(self, connection: Connection) -> None:
        """Take note that it is no more."""

    def begin(self, head: Head, stream: Stream) -> Call:
        """Begin a call; HeadraceError if it is refused."""


class Stream:
    """One call's place on its connection. Only the loop's thread uses it.

    Args:
        number: The HTTP/2 stream's.
    """

    __slots__ = (
        "_begun",
        "_deframer",
        "_half_closed",
        "_held",
        "_unacknowledged",
        "call",
        "connection",
        "encoding",
        "number",
        "over",
        "timer",
    )

    def __init__(self, connection: Connection, number: int, deframer: Deframer) -> None:
        self.connection = connection
        self.number = number
        self.encoding = IDENTITY  # of the answer; its handler may choose another before it begins
        self._deframer = deframer
        self._begun = self._half_closed = False
        self._unacknowledged = 0  # bytes that have come, and that the caller was not told to send on for
        self._held = 0
        self.over = False
        self.call: Call | None = None
        self.timer: asyncio.TimerHandle | None = None

    def received(self, call: Call, data: bytes, *, end: bool) -> None:
        """Take bytes of the request.

        Raises:
            HeadraceError: They are not as they should be, or too many.
        """
        self._unacknowledged += len(data)
        for message in self._deframer.feed(data) if data else ():
            call.message(message)
            if self.over:
                return
        if call.wants_more:
            self.go_on()
        if end:
            self._half_closed = True
            self._hold(0)
            call.half_closed()
        else:
            self._hold(self._deframer.size + call.waiting_bytes)

    def _hold(self, size: int) -> None:
        """Have it counted what is here of a request that has not come as a whole."""
        if size != self._held:
            difference, self._held = size - self._held, size
            self.connection.held.change(difference)

    def end(self) -> None:
        """Take note that all is over."""
        self.go_on()  # what has come no longer counts against the connection
        self.over = True
        self.call = None  # the two know each other: apart, they are freed without the garbage collector
        self._hold(0)
        if self.timer is not None:
            self.timer.cancel()

    @property
    def half_closed(self) -> bool:
        """Whether the caller has sent everything."""
        return self._half_closed

    # What is said to a caller who is gone is said to nobody. Whether he is, the library may know before its event comes.

    def begin(self, headers: Sequence[Header] = ()) -> None:
        """Send the headers of the answer, once."""
        if not self.over:
            with suppress(ngh2.NGH2Error):
                self._begin(headers)
                self.connection.writer.flush_soon()

    def send(self, framed: Sequence[bytes]) -> bool:
        """Send a message; return False if that is enough, until `Call.room`."""
        if not self.over:
            with suppress(ngh2.NGH2Error):
                self._begin()
                return self.connection.writer.send(self.number, framed)
        return True

    def answer(self, framed: Sequence[bytes], trailers: Sequence[Header]) -> None:
        """Send the only message, and how the call ended."""
        if self.over:
            return
        session = self.connection.session
        try:
            self._begin()
            for part in framed:
                session.send_data(self.number, part)
            session.send_trailers(self.number, trailers)
        except ngh2.NGH2Error:
            return
        self.connection.finished(self)

    def finish(self, trailers: Sequence[Header] = OK) -> None:
        """Send how the call ended, and forget it."""
        if self.over:
            return
        session = self.connection.session
        with suppress(ngh2.NGH2Error):
            if self._begun:
                session.send_trailers(self.number, trailers)
            else:  # "Trailers-Only"
                session.send_response(self.number, (*RESPONSE, *trailers), end_stream=True)
            self.connection.finished(self)

    def fail(self, error: HeadraceError) -> None:
        """End the call with an error."""
        self.finish(trailers_of_error(error))

    def cancel(self) -> None:
        """End the call because its handler wants that."""
        call = self.call
        self.finish(_CANCELLED)
        if call is not None:
            call.gone()

    def _begin(self, headers: Sequence[Header] = ()) -> None:
        if not self._begun:
            self._begun = True
            self.connection.session.send_response(self.number, (*_RESPONSES[self.encoding], *headers))

    def go_on(self) -> None:
        """Let the caller send as much as has come."""
        if not self.over:
            size, self._unacknowledged = self._unacknowledged, 0
            self.connection.used(self.number, size)
