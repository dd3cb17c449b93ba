"""One connection of the turbo front end: HTTP/2 by libnghttp2 (through ngh2), calls on top of it. Used by its event loop's thread alone.

Flow control: what has come and is not yet with a handler is bounded, by `CONNECTION_WINDOW` for a connection and by one message,
or `STREAM_WINDOW`, for a call. Whoever sends more waits.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import ngh2
import structlog

from headrace.errors import HeadraceError
from headrace.rpc.turbo.headers import RESPONSE, NotGrpc, answer_encoding, read_head, trailers_of_error
from headrace.rpc.turbo.messages import Deframer
from headrace.rpc.turbo.stream import STREAM_WINDOW, Dispatch, Stream

CONNECTION_WINDOW = 256 << 20
MOST_STREAMS = 1_000  # on one connection; how many are served is not said here
WRITE_BYTES = 1 << 20  # handed to the socket at a time
HANDSHAKE_S = 10.0
PING_S = 10.0  # between two looks whether a caller who waits is still there
PING_ANSWER_S = 10.0
_SETTINGS = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
    ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    ngh2.Setting.MAX_FRAME_SIZE: 1 << 20,
    ngh2.Setting.ENABLE_PUSH: 0,
}
_NO_ERROR = 0x00

CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # Callers whose time is over break their calls off, many at once when the server is slow. Each costs microseconds here, and no handler.
    stream_reset_rate_limit=(20_000, 5_000),
)

log = structlog.get_logger(__name__)


class Connection(asyncio.Protocol):
    """The protocol of one connection.

    Args:
        max_message_bytes: Largest message taken or sent.
        connections: Those that are open: it adds itself when it is, and leaves when it is lost.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        loop: asyncio.AbstractEventLoop,
        max_message_bytes: int,
        connections: "set[Connection]",
    ) -> None:
        self._dispatch = dispatch
        self._loop = loop
        self.max_message_bytes = max_message_bytes
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._ending: list[int] = []  # answered before their callers had sent everything
        self._filling: set[int] = set()  # that wait for room to write more
        self._paused = self._flushing = self._leaving = False
        self._heard = loop.time()
        self._pinged: float | None = None
        self._greeted = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            ngh2.RequestReceived: self._request,
            ngh2.DataReceived: self._data,
            ngh2.TrailersReceived: self._trailers,
            ngh2.StreamReset: self._stream_closed,
            ngh2.StreamClosed: self._stream_closed,
            ngh2.SettingsReceived: self._settings,
            ngh2.PingAcknowledged: self._pong,
        }
        self.session = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self.peer = ""
        self.identity: Mapping[str, Iterable[bytes]] = {}

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._connections.add(self)
        self.peer = _peer_name(transport)
        self.session.initiate_connection(_SETTINGS)
        self.session.set_local_window_size(CONNECTION_WINDOW)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take bytes, do what they say, and answer at once what can be."""
        self._heard = self._loop.time()
        try:
            self.session.receive_data(data)
            for event in self.session.events():
                handle = self._handlers.get(type(event))
                if handle is not None:
                    handle(event)
        except ngh2.NGH2Error as error:
            log.debug("connection_broken", peer=self.peer, error=str(error))
            self.abort()
            return
        self.flush()
        if not self.session.want_read and not self.session.want_write:
            self.close()

    def eof_received(self) -> bool:
        """Close: HTTP/2 knows no half of a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the transport's interface
        """Tell all calls that their caller is gone."""
        for stream in list(self._streams.values()):
            self._lost(stream)
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """Hold back: the caller reads more slowly than is written."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._paused = False
        self.flush()

    # What the caller says

    def _request(self, event: ngh2.RequestReceived) -> None:
        number = event.stream_id
        try:
            head = read_head(event.headers)
        except NotGrpc as error:
            self.session.send_response(number, [(b":status", error.status)], end_stream=True)
            self._end_early(number)
            return
        except HeadraceError as error:
            self.session.send_response(number, (*RESPONSE, *trailers_of_error(error)), end_stream=True)
            self._end_early(number)
            return
        deframer = Deframer(self.max_message_bytes, head.encoding)
        stream = Stream(self, number, deframer, answer_encoding(head))
        self._streams[number] = stream
        try:
            stream.call = self._dispatch.begin(head, stream)
        except HeadraceError as error:
            stream.fail(error)
            return
        if event.end_stream and not stream.over:
            stream.received(b"", end=True)

    def _data(self, event: ngh2.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        data = event.data
        if stream is None:  # answered already; what still comes counts for the connection
            self.used(event.stream_id, len(data))
            return
        try:
            stream.received(data, end=event.end_stream)
        except HeadraceError as error:
            gone = stream.call
            stream.fail(error)
            if gone is not None:
                gone.gone()

    def _trailers(self, event: ngh2.TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.received(b"", end=True)

    def _stream_closed(self, event: ngh2.StreamClosed | ngh2.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._lost(stream)

    def _lost(self, stream: Stream) -> None:
        call = stream.call
        self._forget(stream)
        if call is not None:
            call.gone()

    def _settings(self, event: ngh2.SettingsReceived) -> None:  # noqa: ARG002 - a handler of events
        self._greeted = True

    def _pong(self, event: ngh2.PingAcknowledged) -> None:  # noqa: ARG002 - a handler of events
        self._pinged = None

    # What calls say, through their streams

    def used(self, number: int, size: int) -> None:
        """Let the caller send `size` bytes more, on this stream and in all."""
        if size:
            self.session.acknowledge_received_data(size, number)
            self.flush_soon()

    def send(self, number: int, framed: bytes) -> bool:
        """Send bytes of a body; return False if many wait already."""
        self.session.send_data(number, framed)
        self.flush_soon()
        if self.session.queued_body_size(number) < STREAM_WINDOW:
            return True
        self._filling.add(number)
        return False

    def finished(self, stream: Stream) -> None:
        """Take note that the answer is complete."""
        if not stream.half_closed:
            self._end_early(stream.number)
        self._forget(stream)
        self.flush_soon()

    def _end_early(self, number: int) -> None:
        self._ending.append(number)

    def _forget(self, stream: Stream) -> None:
        stream.over, stream.call = (
            True,
            None,
        )  # call and stream know each other: apart, they are freed without the garbage collector
        if stream.timer is not None:
            stream.timer.cancel()
        self._streams.pop(stream.number, None)
        if self._leaving and not self._streams:
            self._loop.call_soon(self.close)

    def flush_soon(self) -> None:
        """Write what there is at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what the caller's windows and socket let out."""
        self._flushing = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self._paused and (out := self.session.data_to_send(WRITE_BYTES)):
            transport.write(out)
        self._after_writing()

    def _after_writing(self) -> None:
        """Let calls that wait for room write on, and break off what callers still send to calls that have ended."""
        for number in tuple(self._filling):
            stream = self._streams.get(number)
            queued = self.session.queued_body_size(number)
            if stream is None or stream.call is None or queued < STREAM_WINDOW:
                self._filling.discard(number)
            if stream is not None and stream.call is not None and queued < STREAM_WINDOW:
                stream.call.room()
        for number in self._ending[:]:
            if not (self._paused or self.session.queued_body_size(number)):  # the trailers are out too
                self._ending.remove(number)
                self.session.reset_stream(number, _NO_ERROR)
                self.flush_soon()

    # What the server says

    def tick(self, now: float) -> None:
        """Look whether the caller is still there; the server calls it about once a second."""
        if not self._greeted and now - self._heard > HANDSHAKE_S:
            self.abort()
        elif self._pinged is not None and now - self._pinged > PING_ANSWER_S:
            log.debug("connection_silent", peer=self.peer)
            self.abort()
        elif self._pinged is None and self._streams and now - self._heard > PING_S:
            self._pinged = now
            self.session.ping()
            self.flush()

    def leave(self) -> None:
        """Ask the caller to begin no further calls here, and close when those that run have ended."""
        self._leaving = True
        self.session.send_goaway()
        self.flush()
        if not self._streams:
            self.close()

    def close(self) -> None:
        """Close, after what has been written is out."""
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _peer_name(transport: asyncio.BaseTransport) -> str:
    """Name the caller as grpcio does."""
    found = transport.get_extra_info("peername")
    if not isinstance(found, tuple):
        return "unix:"
    host, port, *_ = found
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
