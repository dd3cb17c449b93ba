"""The turbo front end: an event loop in a thread of its own that speaks HTTP/2, and threads for handlers that wait."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import cast

import grpc
import structlog

from headrace.errors import TooManyCalls
from headrace.rpc.addresses import split_address
from headrace.rpc.deferred import be_loop
from headrace.rpc.layers import FindHandler, Handler, LayeredHandler
from headrace.rpc.tls import TlsCredentials
from headrace.rpc.turbo.calls import ThreadedCall
from headrace.rpc.turbo.connection import HANDSHAKE_S, Connection
from headrace.rpc.turbo.context import TurboContext
from headrace.rpc.turbo.headers import ENCODINGS, Head, escaped
from headrace.rpc.turbo.later_calls import LaterCall
from headrace.rpc.turbo.limits import HELD_BYTES, HELD_MESSAGES, MOST_CONNECTIONS, HeldBytes
from headrace.rpc.turbo.messages import unknown_encoding
from headrace.rpc.turbo.stream import Call, Stream

log = structlog.get_logger(__name__)

TICK_S = 1.0
LAST_BYTES_S = 0.1  # for what is still on its way out when the server has stopped


class TurboFrontEnd:
    """Serves handlers to gRPC's clients.

    Args:
        find: Returns the handler of a method, layers included, or None.
        threads: Calls that are served at a time; one more is refused.
        max_message_bytes: Largest message taken or sent.
        most_held_bytes: Most bytes of all requests together that have not come as a whole.
    """

    def __init__(
        self, find: FindHandler, threads: int, max_message_bytes: int, most_held_bytes: int = 0
    ) -> None:
        self._find = find
        self._threads = threads
        self._max_message_bytes = max_message_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rpc")
        self._serving = 0
        self._held = HeldBytes(most_held_bytes or max(HELD_BYTES, HELD_MESSAGES * max_message_bytes))
        self._connections: set[Connection] = set()
        self._listening: list[asyncio.Server] = []
        self._letters: list[Callable[[], object]] = []
        self._awake = False
        self._post_lock = threading.Lock()
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="turbo", daemon=True)
        self._stopped = threading.Event()
        self._leaving = False
        self._thread.start()

    # For any thread

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Accept connections at `host:port` once it has started, and return the real port.

        Raises:
            OSError: Somebody else listens there, or the host is not of this machine.
        """
        host, port = split_address(address)
        tls = None
        if credentials is not None:
            if not isinstance(credentials, TlsCredentials):
                raise TypeError(
                    "grpcio keeps credentials to itself; give turbo headrace.rpc.tls.TlsCredentials"
                )
            tls = credentials.context()
        return asyncio.run_coroutine_threadsafe(self._listen(host, port, tls), self._loop).result()

    def start(self) -> None:
        """Begin to accept."""
        for server in self._listening:
            asyncio.run_coroutine_threadsafe(server.start_serving(), self._loop).result()

    @property
    def held_bytes(self) -> int:
        """How much it keeps of requests that have not come as a whole."""
        return self._held.bytes

    def stop(self, grace_s: float | None) -> threading.Event:
        """Accept nothing more, let calls end for so many seconds (None: not at all), then close; the event tells when that is done.

        Once more, it may be given less time, not more.
        """
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._leave, grace_s)
        return self._stopped

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until it has stopped; return whether it has."""
        return self._stopped.wait(timeout_s)

    def post(self, letter: Callable[[], object]) -> None:
        """Have the loop's thread do something, after what was posted before."""
        with self._post_lock:
            self._letters.append(letter)
            first, self._awake = not self._awake, True
        if first:
            here = (
                threading.current_thread() is self._thread
            )  # a loop that is awake needs no system call to wake it
            with suppress(RuntimeError):  # the loop has ended: nobody hears of it any more
                (self._loop.call_soon if here else self._loop.call_soon_threadsafe)(self._read_letters)

    # In the loop's thread

    def begin(self, head: Head, stream: Stream) -> Call:
        """Begin a call.

        Raises:
            TooManyCalls, Unimplemented: It is refused.
        """
        handler = self._find(head.method)
        if handler is None:
            stream.finish(((b"grpc-status", b"12"), (b"grpc-message", b"Method not found!")))
            return _Refused()
        if head.encoding not in ENCODINGS:
            raise unknown_encoding(head.encoding)
        context = TurboContext(head, stream, self.post)
        call = self._call(handler, context, stream)
        if head.timeout_s is not None:
            stream.timer = self._loop.call_later(head.timeout_s, _expire, stream, call)
        return call

    def opened(self, connection: Connection) -> None:
        """Take note of a connection."""
        self._connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """Take note that it is no more; the last one that is lost ends a server that is leaving."""
        self._connections.discard(connection)
        if self._leaving and not self._connections:
            self._loop.call_soon(self._loop.stop)

    def _call(self, handler: Handler, context: TurboContext, stream: Stream) -> Call:
        if isinstance(handler, LayeredHandler) and handler.begin is not None:
            return LaterCall(handler, handler.begin, context, stream, self.post)
        return ThreadedCall(handler, context, stream, self._submit, self._served, self.post)

    def _submit(self, serve: Callable[[], None]) -> None:
        if self._serving >= self._threads:
            raise TooManyCalls(
                f"{self._threads} calls are being served; try again soon", metadata={"limit": self._threads}
            )
        self._serving += 1
        self._pool.submit(serve)

    def _served(self) -> None:
        self._serving -= 1

    def _read_letters(self) -> None:
        with self._post_lock:
            letters, self._letters, self._awake = self._letters, [], False
        for letter in letters:
            try:
                letter()
            except Exception as error:  # the top of a task: what others posted must not be lost
                log.error("letter_failed", exc_info=error)

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        server = await self._loop.create_server(
            self._connection,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            backlog=1024,
            start_serving=False,
        )
        self._listening.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    def _connection(self) -> asyncio.Protocol:
        if len(self._connections) >= MOST_CONNECTIONS:
            return _TurnedAway()
        return Connection(self, self._loop, self._max_message_bytes, self._held)

    def _tick(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.tick(now)
        self._loop.call_later(TICK_S, self._tick)

    def _leave(self, grace_s: float | None) -> None:
        self._loop.call_later(grace_s if self._connections and grace_s else 0, self._end)
        if self._leaving:
            return
        self._leaving = True
        for server in self._listening:
            server.close()
        for connection in tuple(self._connections):
            connection.leave()

    def _end(self) -> None:
        for connection in tuple(self._connections):
            connection.close()
        self._loop.call_later(LAST_BYTES_S if self._connections else 0, self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        be_loop(self._loop.call_soon)
        self._loop.call_later(TICK_S, self._tick)
        self._loop.run_forever()
        self._loop.close()
        self._pool.shutdown(wait=False)
        self._stopped.set()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        cast("asyncio.Transport", transport).abort()


class _Refused:
    """A call that ended as it began."""

    wants_more = True
    waiting_bytes = 0

    def message(self, data: bytes) -> None:
        """Drop it."""

    def half_closed(self) -> None:
        """Do nothing."""

    def gone(self) -> None:
        """Do nothing."""

    def room(self) -> None:
        """Do nothing."""


def _expire(stream: Stream, call: Call) -> None:
    stream.finish(((b"grpc-status", b"4"), (b"grpc-message", escaped("Deadline Exceeded"))))
    call.gone()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
