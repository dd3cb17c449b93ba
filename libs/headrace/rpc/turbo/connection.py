"""One connection of the turbo front end: HTTP/2 by libnghttp2 (through ngh2), calls on top of it. Used by its event loop's thread alone."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import ngh2
import structlog

from headrace.errors import HeadraceError, ResourceExhausted
from headrace.rpc.turbo.headers import RESPONSE, Head, Header, NotGrpc, read_head, trailers_of_error
from headrace.rpc.turbo.limits import (
    CONFIGURATION,
    CONNECTION_WINDOW,
    MOST_IDLE_FRAMES,
    MOST_UNREAD_BYTES,
    SETTINGS,
    HeldBytes,
)
from headrace.rpc.turbo.messages import Deframer
from headrace.rpc.turbo.peers import identity_of, peer_name, speaks_http2
from headrace.rpc.turbo.stream import Dispatch, Stream
from headrace.rpc.turbo.writer import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, Writer, goaway

HANDSHAKE_S = 10.0
PING_S = 10.0  # between two looks whether a caller who waits is still there
IDLE_PING_S = 60.0  # the same for one who waits for nothing
PING_ANSWER_S = 10.0

log = structlog.get_logger(__name__)


class Connection(asyncio.Protocol):
    """The protocol of one connection.

    Args:
        max_message_bytes: Largest message taken or sent.
        held: What all connections hold of requests that are not here as a whole.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        loop: asyncio.AbstractEventLoop,
        max_message_bytes: int,
        held: HeldBytes,
    ) -> None:
        self._dispatch = dispatch
        self._loop = loop
        self.max_message_bytes = max_message_bytes
        self.held = held
        self._streams: dict[int, Stream] = {}
        self._leaving = False
        self._opened = self._heard = loop.time()
        self._pinged: float | None = None
        self._idle_frames = 0  # since the last tick
        self._greeted = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            ngh2.RequestReceived: self._request,
            ngh2.DataReceived: self._data,
            ngh2.TrailersReceived: self._trailers,
            ngh2.StreamReset: self._stream_closed,
            ngh2.StreamClosed: self._stream_closed,
            ngh2.SettingsReceived: self._settings,
            ngh2.PingReceived: self._idle_frame,
            ngh2.PingAcknowledged: self._pong,
        }
        self.session = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self.writer = Writer(self.session, loop, self._room, self._written, self._refuse)
        self.peer = ""
        self.identity: Mapping[str, Iterable[bytes]] = {}

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.writer.open(cast("asyncio.Transport", transport))  # uvloop's is one in all but its base class
        self._dispatch.opened(self)
        self.peer, self.identity = peer_name(transport), identity_of(transport)
        self.session.initiate_connection(SETTINGS)
        self.session.set_local_window_size(CONNECTION_WINDOW)
        if speaks_http2(transport):
            self.writer.flush()
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes, do what they say, and answer at once what can be."""
        if self.writer.closed:
            return
        self._heard = self._loop.time()
        try:
            self.session.receive_data(data)
            for event in self.session.events():
                handle = self._handlers.get(type(event))
                if handle is not None:
                    handle(event)
        except ngh2.NGH2Error as error:
            self._refuse(error)
            return
        self.writer.flush()
        if self._idle_frames > MOST_IDLE_FRAMES:
            self._refuse(
                ngh2.DenialOfServiceError(f"{self._idle_frames} frames in a second that say nothing")
            )
        elif self._is_over():
            self.close()  # the library has said what was wrong

    def eof_received(self) -> bool:
        """Close: HTTP/2 knows no half of a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the transport's interface
        """Tell all calls that their caller is gone."""
        self.writer.lost()
        self._end_calls()
        self._dispatch.lost(self)

    def pause_writing(self) -> None:
        """Hold back: the caller reads more slowly than is written."""
        self.writer.pause()

    def resume_writing(self) -> None:
        """Go on writing."""
        self.writer.resume()

    # What the caller says

    def _request(self, event: ngh2.RequestReceived) -> None:
        number = event.stream_id
        try:
            self._begin(number, read_head(event.headers), half_closed=event.end_stream)
        except NotGrpc as error:
            self._answer(number, [(b":status", error.status)])
        except HeadraceError as error:
            self._answer(number, (*RESPONSE, *trailers_of_error(error)))

    def _answer(self, number: int, headers: Sequence[Header]) -> None:
        """Answer what has not become a call."""
        with suppress(ngh2.StreamProtocolError):  # broken off meanwhile
            self.session.send_response(number, headers, end_stream=True)
            self.writer.end_early(number)

    def _begin(self, number: int, head: Head, *, half_closed: bool) -> None:
        if self.session.queued_body_size() > MOST_UNREAD_BYTES:
            raise ResourceExhausted("many answers on this connection have not been read; read them first")
        deframer = Deframer(self.max_message_bytes, head.encoding)
        stream = self._streams[number] = Stream(self, number, deframer)
        try:
            stream.call = self._dispatch.begin(head, stream)
        except HeadraceError as error:
            stream.fail(error)
            self._forget(stream)  # also one that was broken off meanwhile
            return
        if half_closed and not stream.over:
            self._take(stream, b"", end=True)

    def _data(self, event: ngh2.DataReceived) -> None:
        data, end = event.data, event.end_stream
        if not (data or end):
            self._idle_frames += 1
        stream = self._streams.get(event.stream_id)
        if stream is None:  # answered already; what still comes counts for the connection
            self.used(event.stream_id, len(data))
        else:
            self._take(stream, data, end=end)

    def _take(self, stream: Stream, data: bytes, *, end: bool) -> None:
        call = stream.call
        assert call is not None, "who is among the streams has a call"
        try:
            stream.received(call, data, end=end)
        except HeadraceError as error:
            stream.fail(error)
            call.gone()

    def _trailers(self, event: ngh2.TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._take(stream, b"", end=True)

    def _stream_closed(self, event: ngh2.StreamClosed | ngh2.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._lost(stream)

    def _settings(self, _: ngh2.SettingsReceived) -> None:
        self._greeted = True
        self._idle_frames += 1

    def _idle_frame(self, _: ngh2.PingReceived) -> None:
        self._idle_frames += 1

    def _pong(self, _: ngh2.PingAcknowledged) -> None:
        self._pinged = None
        if self._leaving:  # what the caller began before it heard of that has come
            self.session.send_goaway()
            self._close_if_done()

    # What calls say, through their streams

    def used(self, number: int, size: int) -> None:
        """Let the caller send `size` bytes more, on this stream and in all."""
        if size:
            self.session.acknowledge_received_data(size, number)
            self.writer.flush_soon()

    def finished(self, stream: Stream) -> None:
        """Take note that the answer is complete."""
        if not stream.half_closed:
            self.writer.end_early(stream.number)
        self._forget(stream)
        self.writer.flush_soon()

    def _lost(self, stream: Stream) -> None:
        call = stream.call
        self._forget(stream)
        if call is not None:
            call.gone()

    def _forget(self, stream: Stream) -> None:
        stream.end()
        self._streams.pop(stream.number, None)
        self._written()

    def _end_calls(self) -> None:
        for stream in list(self._streams.values()):
            self._lost(stream)

    def _room(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None and stream.call is not None:
            stream.call.room()

    def _written(self) -> None:
        if self._leaving:
            self._close_if_done()

    # What the server says

    def tick(self, now: float) -> None:
        """Look whether the caller is still there; the server calls it about once a second."""
        self._idle_frames = 0
        silent_s = now - self._heard
        if not self._greeted and now - self._opened > HANDSHAKE_S:
            self.abort()
        elif self._pinged is not None and now - max(self._pinged, self._heard) > PING_ANSWER_S:
            log.debug("connection_silent", peer=self.peer)
            self.abort()
        elif self._pinged is None and silent_s > (PING_S if self._streams else IDLE_PING_S):
            self._ping()

    def leave(self) -> None:
        """Ask the caller to begin no further calls here, and close when those that run have ended."""
        if self.writer.closed:
            return
        self._leaving = True
        self.session.send_shutdown_notice()
        self.writer.flush()  # or the ping would go out first
        self._ping()  # what it began before it hears of that has come when it answers

    def close(self) -> None:
        """Close, after what has been written is out."""
        self.writer.flush()
        if not self.writer.closed:
            self.writer.close()
            self._end_calls()

    def abort(self) -> None:
        """Close at once."""
        self.writer.abort()
        self._end_calls()

    def _is_over(self) -> bool:
        return not (self.writer.closed or self.session.want_read or self.session.want_write)

    def _ping(self) -> None:
        self._pinged = self._loop.time()
        self.session.ping()
        self.writer.flush()

    def _close_if_done(self) -> None:
        if not self._streams and self._pinged is None and self.writer.idle:
            self._loop.call_soon(self.close)

    def _refuse(self, error: ngh2.NGH2Error) -> None:
        """Close, and say why if the library has not: it is of no use any more."""
        if self.writer.closed:
            return
        log.debug("connection_refused", peer=self.peer, error=str(error))
        excess = isinstance(error, ngh2.DenialOfServiceError)
        self.writer.close(goaway(ENHANCE_YOUR_CALM if excess else PROTOCOL_ERROR))
        self._end_calls()
