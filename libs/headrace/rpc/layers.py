"""Layers around a handler, the same for unary and streaming calls.

A layer is told when a call begins and ends. The first layer is the outermost. Around a streaming response the layers stay until the last
message was sent or the caller is gone.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc

from headrace.rpc.context import REQUEST_ID_METADATA, Principal, metadata_value, served
from headrace.rpc.deferred import Answer, is_declared_to_answer_later

INFRASTRUCTURE = "/grpc."  # health, reflection, channelz: open to all, even when the server is full

MAX_REQUEST_ID = 128  # characters; an id is for reading, and it is repeated in every line

Message = Any  # a protobuf message of the call's own type; only its handler knows which
Behavior = Callable[[Any, grpc.ServicerContext], Any]


class Call:
    """One rpc on the server's side."""

    def __init__(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.method = method
        self.context = context
        self.request = request
        self.principal: Principal | None = None  # who calls, once that is known
        self.began = 0.0  # on time.perf_counter, once somebody measures
        self.span: AbstractContextManager[object] | None = None  # while it is traced
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._ended = not context.add_callback(self.end)

    @cached_property
    def request_id(self) -> str:
        """The id that the caller gave, or one that is made now."""
        return self.metadata(REQUEST_ID_METADATA)[:MAX_REQUEST_ID] or uuid.uuid4().hex

    @property
    def peer(self) -> str:
        """Where the caller is, as gRPC names it."""
        return self.context.peer()

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
        return self._ended

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when `ended` becomes true, at once if it is: it wakes a stream that waits for news.

        It runs on the one thread that serves all of gRPC: it must be quick, and must not take a lock that a handler
        holds while it yields.
        """
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """Make `ended` true."""
        with self._lock:
            self._ended = True
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


def current_call() -> Call:
    """Return the call that this thread serves: a stream asks it when to end."""
    call = served.get()
    assert isinstance(call, Call), "only the handler of a call may ask for it"
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


class Layer(Protocol):
    """Is told of each call."""

    def enter(self, call: Call) -> None:
        """Take note that a call begins. What is raised refuses it, if the layer is a gate."""

    def leave(self, call: Call) -> None:
        """Take note that a call has ended, whose `enter` returned."""


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FindHandler: TypeAlias = "Callable[[str], Handler | None]"


if TYPE_CHECKING:
    _Base = grpc.RpcMethodHandler[Any, Any]
else:  # only its types can be told what messages there are
    _Base = grpc.RpcMethodHandler


class LayeredHandler(_Base):
    """A handler with layers around it.

    `begin` is None, or begins a unary call without waiting for its answer, which may be a `Answer`; its handler says that it never blocks.
    """

    def __init__(self, bare: Handler, behavior: str, layered: Behavior, begin: Behavior | None) -> None:
        self.request_streaming = bare.request_streaming
        self.response_streaming = bare.response_streaming
        self.request_deserializer = bare.request_deserializer
        self.response_serializer = bare.response_serializer
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        setattr(self, behavior, layered)
        self.begin = begin


AnswerError = Callable[
    [Call, BaseException], None
]  # aborts the call as it should end, or returns: then what was raised goes on


@dataclass(frozen=True)
class Layers:
    """What is around a handler.

    Args:
        observers: See every call, and how it ended.
        answer_error: Turns what gates and handlers raise into a status.
        gates: May refuse a call.
    """

    observers: Sequence[Layer]
    answer_error: AnswerError
    gates: Sequence[Layer]

    def enter(self, call: Call) -> None:
        """Begin a call; if a gate refuses it, it has ended when this raises."""
        served.set(call)  # never reset: every call runs in a context of its own
        for observer in self.observers:
            observer.enter(call)
        inside = 0
        try:
            for gate in self.gates:
                gate.enter(call)
                inside += 1
        except BaseException as error:
            self.leave(call, error, inside)
            raise

    def leave(self, call: Call, error: BaseException | None = None, inside: int | None = None) -> None:
        """End a call; with an error, this raises what its front end understands, or returns if it knows nothing better than the error."""
        for gate in reversed(self.gates[:inside]):
            gate.leave(call)
        try:
            if error is not None and not isinstance(error, GeneratorExit):  # SystemExit too ends a call only
                self.answer_error(call, error)
        finally:
            for observer in reversed(self.observers):
                observer.leave(call)

    def around(self, method: str, handler: Handler) -> LayeredHandler:
        """Return a handler that does the same with the layers around it."""
        behavior = _BEHAVIORS[bool(handler.request_streaming), bool(handler.response_streaming)]
        inner: Behavior = getattr(handler, behavior)
        serve = self._stream if handler.response_streaming else self._unary

        def layered(request: Any, context: grpc.ServicerContext) -> Any:
            return serve(
                inner, Call(method, Requests(request) if handler.request_streaming else request, context)
            )

        def begin(request: Any, context: grpc.ServicerContext) -> Any:
            return self._begin(inner, Call(method, request, context))

        later = behavior == "unary_unary" and is_declared_to_answer_later(inner)
        return LayeredHandler(handler, behavior, layered, begin if later else None)

    def _unary(self, inner: Behavior, call: Call) -> Message:
        response = self._begin(inner, call)
        return response.wait() if isinstance(response, Answer) else response

    def _begin(self, inner: Behavior, call: Call) -> "Message | Answer[Message]":
        self.enter(call)
        try:
            response = inner(call.request, call.context)
        except BaseException as error:
            self.leave(call, error)
            raise
        if isinstance(response, Answer):
            return _Leaving(self, call, response)
        self.leave(call)
        return response

    def _stream(self, inner: Behavior, call: Call) -> Iterator[Message]:
        self.enter(call)
        try:
            yield from _while_active(inner(call.request, call.context), call)
        except BaseException as error:
            self.leave(call, error)
            raise
        self.leave(call)


def _while_active(messages: Iterator[Message], call: Call) -> Iterator[Message]:
    try:
        for message in messages:
            if not call.context.is_active():
                return
            yield message
    finally:
        # A generator is closed here, in the call's own thread and context, not whenever it is collected.
        getattr(messages, "close", lambda: None)()


class _Leaving(Answer[Message]):
    """A later answer; whoever takes it has the call leave its layers."""

    def __init__(self, layers: Layers, call: Call, answer: Answer[Message]) -> None:
        self._layers = layers
        self._call = call
        self._answer = answer

    def then(self, callback: Callable[[], object]) -> None:
        self._answer.then(callback)

    def wait(self) -> Message:
        try:
            response = self._answer.wait()
        except BaseException as error:
            self._layers.leave(self._call, error)
            raise
        self._layers.leave(self._call)
        return response


_BEHAVIORS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
