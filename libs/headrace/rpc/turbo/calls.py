"""Calls whose handlers wait, each in a thread of its own: the handlers that grpcio serves, with their layers."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import partial
from typing import Any

import grpc

from headrace.errors import Internal, Unimplemented
from headrace.rpc.layers import Handler
from headrace.rpc.turbo.coding import Coding
from headrace.rpc.turbo.context import Post, TurboContext
from headrace.rpc.turbo.limits import MESSAGE_BYTES, STREAM_WINDOW
from headrace.rpc.turbo.stream import Stream


class CallerGone(grpc.RpcError):
    """Who reads a request stream is told so that its caller is gone."""


class ThreadedCall:
    """One call with a blocking handler. Its first half is used by the loop's thread, `_serve` runs in a thread of the pool.

    Args:
        submit: Has a thread run something; TooManyCalls if there is none.
        served: Told, by the loop's thread and before the caller, that the thread is free.
        post: Has the loop's thread do something.
    """

    def __init__(
        self,
        handler: Handler,
        context: TurboContext,
        stream: Stream,
        submit: Callable[[Callable[[], None]], object],
        served: Callable[[], None],
        post: Post,
    ) -> None:
        self._handler = handler
        self._context = context
        self._stream = stream
        self._submit = submit
        self._served = served
        self._post = post
        self._messages: deque[bytes] = deque()
        self._queued_bytes = 0
        self._coding = Coding(handler, context, stream.connection.max_message_bytes)
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
            self._queued_bytes += len(data) + MESSAGE_BYTES
            self._changed.notify_all()
        if not self._handler.request_streaming and len(self._messages) > 1:
            raise Unimplemented("the rpc takes one request, and two came")

    @property
    def wants_more(self) -> bool:
        """Whether its handler is not too far behind."""
        return not self._handler.request_streaming or self._queued_bytes < STREAM_WINDOW

    @property
    def waiting_bytes(self) -> int:
        """How many bytes it keeps that its handler does not have."""
        return self._queued_bytes

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
            last = self._answered()
        except BaseException as error:  # noqa: BLE001 - the top of a call: whatever ends it, its caller is told
            last = partial(self._stream.finish, self._coding.trailers(error))
        self._post(partial(self._end, last))

    def _end(self, last: Callable[[], None]) -> None:
        """Have the loop's thread end the call."""
        self._served()
        last()

    def _answered(self) -> Callable[[], None]:
        """Have the handler answer; return what ends the call."""
        handler, context = self._handler, self._context
        behavior = getattr(
            handler, _BEHAVIORS[bool(handler.request_streaming), bool(handler.response_streaming)]
        )
        request = (
            self._requests() if handler.request_streaming else self._coding.read(self._messages.popleft())
        )
        if not handler.response_streaming:
            message = self._coding.write(behavior(request, context))
            return partial(self._stream.answer, message, context.trailers())
        for response in behavior(request, context):
            self._send(response)
            if self._gone:
                break
        return partial(self._stream.finish, context.trailers())

    def _requests(self) -> Iterator[Any]:
        while (data := self._next()) is not None:
            yield self._coding.read(data)

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
            self._queued_bytes -= len(data) + MESSAGE_BYTES
        if held_back and self.wants_more:
            self._post(self._stream.go_on)
        return data

    def _send(self, response: Any) -> None:
        """Send a message as soon as there is room for it."""
        message = self._coding.write(response)
        with self._changed:
            self._changed.wait_for(lambda: self._room or self._gone)
            self._unsent += sum(map(len, message))
            self._room = self._unsent < STREAM_WINDOW
        self._post(partial(self._put, message))

    def _put(self, message: Sequence[bytes]) -> None:
        """Have the loop's thread send a message, and let the handler go on unless much waits."""
        if self._stream.send(message):
            self.room()


_BEHAVIORS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
