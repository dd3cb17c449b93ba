"""One gRPC interceptor for all: layers around a handler, the same for unary and streaming calls.

A layer is a function from a call to a context manager: it sees the call begin, end and fail. The first layer is the
outermost. Around a streaming response the layers stay open until the last message was sent or the caller is gone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc

from headrace.rpc.context import metadata_value

INFRASTRUCTURE = "/grpc."  # health, reflection, channelz: open to all, even when the server is full

Message = Any  # a protobuf message of the call's own type; only its handler knows which
Behavior = Callable[[Any, grpc.ServicerContext], Any]


class Call:
    """One rpc on the server's side."""

    def __init__(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.method = method
        self.context = context
        self.request = request
        self._ended = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        if not context.add_callback(self.end):
            self._ended.set()

    @property
    def first_request(self) -> Message | None:
        """The request, or the first one of a stream (waits for it); None if the stream ended without any."""
        return self.request.peek() if isinstance(self.request, Requests) else self.request

    @property
    def code(self) -> str:
        """How the call ended, as a canonical code's name; for a handler that has not failed so far, OK."""
        code = status_code(self.context)
        if code is None:
            return "OK" if self.context.is_active() else "CANCELLED"
        return _code_name(code)

    @property
    def ended(self) -> bool:
        """Whether a stream should end now: the caller is gone, or the server is about to stop."""
        return self._ended.is_set()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when `ended` becomes true, at once if it is: it wakes a stream that waits for news.

        It runs on the one thread that serves all of gRPC: it must be quick, and must not take a lock that a handler
        holds while it yields.
        """
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """Make `ended` true."""
        with self._lock:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def metadata(self, key: str) -> str:
        """Return the first text value the caller sent under `key`, or an empty string."""
        return metadata_value(self.context.invocation_metadata(), key)


def status_code(context: Any) -> grpc.StatusCode | int | None:
    """Return the code that was set on a servicer context, None before; the types of grpcio do not know `code()`."""
    code: grpc.StatusCode | int | None = context.code()
    return code


def _code_name(code: grpc.StatusCode | int) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


_current: ContextVar[Call | None] = ContextVar("headrace_call", default=None)


def current_call() -> Call:
    """Return the call that this thread serves: a stream asks it when to end."""
    call = _current.get()
    assert call is not None, "only the handler of a call may ask for it"
    return call


class Requests(Iterator[Message]):
    """The messages of a request stream, of which the first can be looked at before the handler runs."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self._peeked: list[Message | None] = []

    def peek(self) -> Message | None:
        """Return the first message without taking it; None if there is none."""
        if not self._peeked:
            self._peeked.append(next(self._messages, None))
        return self._peeked[0]

    def __next__(self) -> Message:
        if self._peeked:
            message = self._peeked.pop()
            if message is None:
                raise StopIteration
            return message
        return next(self._messages)


Layer = Callable[[Call], AbstractContextManager[None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class LayeredInterceptor(grpc.ServerInterceptor):
    """Wrap every handler into the layers, and those of health, reflection and channelz into layers of their own."""

    def __init__(self, layers: Sequence[Layer], infrastructure: Sequence[Layer] = ()) -> None:
        self._layers = tuple(layers)
        self._infrastructure = tuple(infrastructure)

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the handler of this call, wrapped; None when there is no such method."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        return _wrap(
            method, handler, self._infrastructure if method.startswith(INFRASTRUCTURE) else self._layers
        )


def _wrap(method: str, handler: "Handler", layers: Sequence[Layer]) -> "Handler":
    make, behavior = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
    inner: Behavior = getattr(handler, behavior)
    around = _around_stream if handler.response_streaming else _around_unary

    def wrapped(request: Any, context: grpc.ServicerContext) -> Any:
        call = Call(method, Requests(request) if handler.request_streaming else request, context)
        return around(inner, call, layers)

    return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _around_unary(inner: Behavior, call: Call, layers: Sequence[Layer]) -> Message:
    with ExitStack() as stack:
        _enter(stack, call, layers)
        return inner(call.request, call.context)
    raise AssertionError("a layer swallowed an exception")


def _around_stream(inner: Behavior, call: Call, layers: Sequence[Layer]) -> Iterator[Message]:
    with ExitStack() as stack:
        _enter(stack, call, layers)
        messages = iter(inner(call.request, call.context))
        # A generator is closed here, in the call's own thread and context, not whenever it is collected.
        stack.callback(getattr(messages, "close", lambda: None))
        for message in messages:
            if not call.context.is_active():
                return
            yield message


def _enter(stack: ExitStack, call: Call, layers: Sequence[Layer]) -> None:
    _current.set(call)  # never reset: gRPC runs every call in a context of its own
    for layer in layers:
        stack.enter_context(layer(call))


_KINDS: "dict[tuple[bool, bool], tuple[Callable[..., Handler], str]]" = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}
