"""Calls whose handlers answer later: they cost no thread. Used by the event loop's thread alone, but for what others settle."""

from contextvars import Context
from functools import partial
from typing import Any

from headrace.errors import Internal, Unimplemented
from headrace.rpc.deferred import Answer
from headrace.rpc.layers import Behavior, Handler
from headrace.rpc.turbo.coding import Coding
from headrace.rpc.turbo.context import Post, TurboContext
from headrace.rpc.turbo.stream import Stream


class LaterCall:
    """One unary call with a handler that never blocks.

    Args:
        begin: Begins the call, and returns its answer or an `Answer`.
        post: Has the loop's thread do something.
    """

    wants_more = True

    def __init__(
        self, handler: Handler, begin: Behavior, context: TurboContext, stream: Stream, post: Post
    ) -> None:
        self._begin = begin
        self._context = context
        self._stream = stream
        self._post = post
        self._coding = Coding(handler, context, stream.connection.max_message_bytes)
        self._request: bytes | None = None
        self._around = Context()  # of its own, as gRPC gives each call

    def message(self, data: bytes) -> None:
        """Take the request."""
        if self._request is not None:
            raise Unimplemented("the rpc takes one request, and two came")
        self._request = data

    @property
    def waiting_bytes(self) -> int:
        """How many bytes it keeps that its handler does not have."""
        return 0 if self._request is None else len(self._request)

    def half_closed(self) -> None:
        """Have the request answered."""
        if self._request is None:
            raise Internal("the rpc takes one request, and none came")
        try:
            request = self._coding.read(self._request)
            response = self._around.run(self._begin, request, self._context)
        except BaseException as error:  # noqa: BLE001 - the top of a call; the loop's thread serves all others
            self._failed(error)
            return
        if isinstance(response, Answer):
            response.then(partial(self._post, partial(self._take, response)))
        else:
            self._answer(response)

    def gone(self) -> None:
        """Take note that nobody waits any more."""
        self._context.end()

    def room(self) -> None:
        """Do nothing: there is one message only."""

    def _take(self, answer: Answer[Any]) -> None:
        """Send an answer that is there by now."""
        try:
            response = self._around.run(answer.wait)
        except BaseException as error:  # noqa: BLE001 - the top of a call; the loop's thread serves all others
            self._failed(error)
            return
        self._answer(response)

    def _answer(self, response: Any) -> None:
        try:
            message = self._coding.write(response)
        except BaseException as error:  # noqa: BLE001 - the top of a call; the loop's thread serves all others
            self._failed(error)
            return
        self._stream.answer(message, self._context.trailers())
        self._context.end()

    def _failed(self, error: BaseException) -> None:
        self._stream.finish(self._coding.trailers(error))
        self._context.end()
