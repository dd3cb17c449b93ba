"""What goes out on one connection: as much as the caller's windows and the socket take, once in a turn of the loop."""

import asyncio
from collections.abc import Callable, Sequence

import ngh2

from headrace.rpc.turbo.limits import STREAM_WINDOW

WRITE_BYTES = 1 << 20  # handed to the socket at a time
LAST_BYTES_S = 5.0  # for the caller to read what was written, and to close
NO_ERROR, PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 0x00, 0x01, 0x0B  # RFC 9113, 7


class Writer:
    """Used by its event loop's thread alone.

    Args:
        room: Told of a stream on which more may be sent, after `send` said that it was enough.
        written: Told when something may have gone out.
        broken: Told when the session is of no use any more.
    """

    def __init__(
        self,
        session: ngh2.Connection,
        loop: asyncio.AbstractEventLoop,
        room: Callable[[int], None],
        written: Callable[[], None],
        broken: Callable[[ngh2.NGH2Error], None],
    ) -> None:
        self._session = session
        self._loop = loop
        self._room = room
        self._written = written
        self._broken = broken
        self._transport: asyncio.Transport | None = None
        self._filling: set[int] = set()  # that wait for room
        self._ending: list[int] = []  # answered before their callers had sent everything
        self._paused = self._flushing = self.closed = False

    @property
    def idle(self) -> bool:
        """Whether the socket has taken all answers."""
        return not (self._paused or self._session.queued_body_size())

    def open(self, transport: asyncio.Transport) -> None:
        """Begin to write."""
        self._transport = transport

    def send(self, number: int, framed: Sequence[bytes]) -> bool:
        """Send bytes of a body; return False if many wait already."""
        for part in framed:
            self._session.send_data(number, part)
        self.flush_soon()
        if self._session.queued_body_size(number) < STREAM_WINDOW:
            return True
        self._filling.add(number)
        return False

    def end_early(self, number: int) -> None:
        """Tell the caller, when the answer is out, that nobody wants the rest of the request (RFC 9113, 8.1)."""
        self._ending.append(number)
        self.flush_soon()

    def pause(self) -> None:
        """Hold back: the caller reads more slowly than is written."""
        self._paused = True

    def resume(self) -> None:
        """Go on writing."""
        self._paused = False
        self.flush()

    def flush_soon(self) -> None:
        """Write what there is at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what the caller's windows and socket let out."""
        self._flushing = False
        if self.closed or self._transport is None or self._transport.is_closing():
            return
        try:
            while not self._paused and (out := self._session.data_to_send(WRITE_BYTES)):
                self._transport.write(out)
            self._after_writing()
        except ngh2.NGH2Error as error:
            self._broken(error)

    def close(self, last: bytes = b"") -> None:
        """Write `last` and nothing after it; the caller, who has read all, closes, or the time for that is over.

        A socket that is closed while something comes in takes back what is on its way out (RFC 1122, 4.2.2.13).
        """
        self.closed = True
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(last)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS ends both ways by itself
            self._transport.close()
        self._loop.call_later(LAST_BYTES_S, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def lost(self) -> None:
        """Take note that nothing goes out any more."""
        self.closed = True

    def _after_writing(self) -> None:
        for number in tuple(self._filling):
            if self._session.queued_body_size(number) < STREAM_WINDOW:
                self._filling.discard(number)
                self._room(number)
        for number in self._ending[:]:
            if not (self._paused or self._session.queued_body_size(number)):  # the trailers are out too
                self._ending.remove(number)
                self._session.reset_stream(number, NO_ERROR)
                self.flush_soon()
        self._written()


def goaway(code: int) -> bytes:
    """Write a GOAWAY frame (RFC 9113, 6.8) that says nothing of which streams were processed."""
    return b"\0\0\x08\x07\0" + bytes(4) + b"\x7f\xff\xff\xff" + code.to_bytes(4, "big")
