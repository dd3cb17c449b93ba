"""Calls whose handlers wait, each in a thread of its own: the handlers that grpcio serves, with their layers."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias

import grpc
import structlog

from headrace.errors import Internal, Unimplemented
from headrace.rpc.layers import Handler
from headrace.rpc.turbo.connection import STREAM_WINDOW, Stream
from headrace.rpc.turbo.context import Aborted, TurboContext
from headrace.rpc.turbo.headers import IDENTITY, Header, escaped
from headrace.rpc.turbo.messages import framed, framed_compressed

Post: TypeAlias = "Callable[[Callable[[], object]], None]"  # have the loop's thread do something

log = structlog.get_logger(__name__)


class CallerGone(grpc.RpcError):
    """Who reads a request stream is told so that its caller is gone."""


class ThreadedCall:
    """One call with a blocking handler. Its first half is used by the loop's thread, `_serve` runs in a thread of the pool.

    Args:
        submit: Has a thread run something.
        post: Has the loop's thread do something.
    """

    def __init__(
        self,
        handler: Handler,
        context: TurboContext,
        stream: Stream,
        submit: Callable[[Callable[[], None]], object],
        post: Post,
    ) -> None:
        self._handler = handler
        self._context = context
        self._stream = stream
        self._submit = submit
        self._post = post
        self._messages: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._complete = self._gone = self._begun = False
        self._room, self._unsent = True, 0
        if handler.request_streaming:
            self._begin()

    # What the loop's thread says

    def message(self, data: bytes) -> None:
        """Take the next message."""
        with self._changed:
            self._messages.append(data)
            self._queued_bytes += len(data)
            self._changed.notify_all()
        if not self._handler.request_streaming and len(self._messages) > 1:
            raise Unimplemented("the rpc takes one request, and two came")

    @property
    def wants_more(self) -> bool:
        """Whether its handler is not too far behind."""
        return not self._handler.request_streaming or self._queued_bytes < STREAM_WINDOW

    def half_closed(self) -> None:
        """Take note that no message follows."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()
        if not self._begun:
            if not self._messages:
                raise Internal("the rpc takes one request, and none came")
            self._begin()

    def gone(self) -> None:
        """Take note that nobody waits any more."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._context.end()

    def room(self) -> None:
        """Take note that more may be sent."""
        with self._changed:
            self._unsent, self._room = 0, True
            self._changed.notify_all()

    def _begin(self) -> None:
        self._begun = True
        self._submit(self._serve)

    # What the thread of the handler does

    def _serve(self) -> None:
        try:
            Context().run(self._handle)  # a context of its own, as gRPC gives each call
        finally:
            self._context.end()

    def _handle(self) -> None:
        try:
            trailers = self._answered()
        except Aborted:
            trailers = self._context.trailers()
        except _Broken as broken:
            trailers = broken.trailers
        except Exception as error:  # the top of a call: the layers have answered what they know
            if not self._gone:
                log.error("handler_failed", exc_info=error)
            trailers = _said(grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}")
        self._post(partial(self._stream.finish, trailers))

    def _answered(self) -> Sequence[Header]:
        handler, context = self._handler, self._context
        behavior = getattr(
            handler, _BEHAVIORS[bool(handler.request_streaming), bool(handler.response_streaming)]
        )
        request = self._requests() if handler.request_streaming else self._read(self._messages.popleft())
        if handler.response_streaming:
            for response in behavior(request, context):
                self._send(response)
                if self._gone:
                    break
        else:
            self._send(behavior(request, context))
        return context.trailers()

    def _requests(self) -> Iterator[Any]:
        while (data := self._next()) is not None:
            yield self._read(data)

    def _next(self) -> bytes | None:
        """Wait for a message; None if none follows."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._complete or self._gone)
            if self._gone:
                raise CallerGone("the caller is gone")
            if not self._messages:
                return None
            held_back = not self.wants_more
            data = self._messages.popleft()
            self._queued_bytes -= len(data)
        if held_back and self.wants_more:
            self._post(self._stream.go_on)
        return data

    def _read(self, data: bytes) -> Any:
        deserialize = self._handler.request_deserializer
        try:
            return deserialize(data) if deserialize else data
        except Exception as error:  # whatever a deserializer raises: the bytes are no such message
            raise _Broken("Exception deserializing request!") from error

    def _send(self, response: Any) -> None:
        """Send a message as soon as there is room for it."""
        message = self._written(response)
        with self._changed:
            self._changed.wait_for(lambda: self._room or self._gone)
            self._unsent += len(message)
            self._room = self._unsent < STREAM_WINDOW
        self._post(partial(self._put, message))

    def _put(self, message: bytes) -> None:
        """Have the loop's thread send a message, and let the handler go on unless much waits."""
        if self._stream.send(message):
            self.room()

    def _written(self, response: Any) -> bytes:
        serialize = self._handler.response_serializer
        try:
            message: bytes = serialize(response) if serialize else response
        except Exception as error:  # whatever a serializer raises: the handler returned something else
            raise _Broken("Exception serializing response!") from error
        encoding = self._stream.encoding
        if encoding == IDENTITY or not self._context.compressed:
            return framed(message)
        return framed_compressed(message, encoding)


class _Broken(Exception):
    """A message cannot be read or written; said as grpcio says it."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self.trailers = _said(grpc.StatusCode.INTERNAL, details)


def _said(code: grpc.StatusCode, details: str) -> Sequence[Header]:
    number: int = code.value[0]
    return ((b"grpc-status", b"%d" % number), (b"grpc-message", escaped(details)))


_BEHAVIORS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
