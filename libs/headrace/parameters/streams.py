"""The calls of the Parameters service that carry values, as one client makes them to one shard.

A request stream of one message is sent as a unary request, which is the same on the wire: gRPC then needs no thread that reads the stream, and a
call of 1 MB takes a third of the time. `python -m benchmarks.parameters transfer` has bare gRPC beside it.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

import grpc

from headrace.errors import Internal
from headrace.parameters.operation import Operation
from headrace.parameters.recoding import one_message_stub, parameters_stub
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.wire import Piece, receive

Request = TypeVar("Request", parameters_pb2.PushRequest, parameters_pb2.PushPullRequest)
Response = TypeVar("Response", parameters_pb2.PullResponse, parameters_pb2.PushPullResponse)
Answer = TypeVar("Answer")


class ValueStreams:
    """Gradients and values by streams. Whatever an operation stops is cancelled."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = parameters_stub(channel)
        self._one_message = one_message_stub(channel)

    def push(
        self, operation: Operation, requests: Iterator[parameters_pb2.PushRequest]
    ) -> parameters_pb2.PushResponse:
        """Send a gradient."""
        only, requests = _only(requests)
        if only is None:
            call = self._stub.Push.future(requests, timeout=operation.remaining_s)
            return operation.track(call).result()
        answers = operation.track(self._one_message.Push(only, timeout=operation.remaining_s))
        return _first(_to_the_end(answers))

    def push_pull(
        self,
        operation: Operation,
        requests: Iterator[parameters_pb2.PushPullRequest],
        values: Sequence[Piece],
    ) -> parameters_pb2.PushPullResponse:
        """Send a gradient, receive values into `values`; return the first response."""
        only, requests = _only(requests)
        if only is None:
            answers = operation.track(self._stub.PushPull(requests, timeout=operation.remaining_s))
        else:
            answers = operation.track(self._one_message.PushPull(only, timeout=operation.remaining_s))
        return received(answers, values)

    def begin_push(self, requests: Iterator[parameters_pb2.PushRequest], timeout_s: float) -> Any:
        """Begin a `Push` whose requests come in time; return its future, which whoever began it ends."""
        return self._stub.Push.future(requests, timeout=timeout_s)

    def begin_push_pull(self, requests: Iterator[parameters_pb2.PushPullRequest], timeout_s: float) -> Any:
        """Begin a `PushPull` whose requests come in time; return its answers, which whoever began it ends."""
        return self._stub.PushPull(requests, timeout=timeout_s)

    def pull(
        self, operation: Operation, request: parameters_pb2.PullRequest, values: Sequence[Piece]
    ) -> parameters_pb2.PullResponse:
        """Receive values into `values`, unless there is nothing newer; return the first response."""
        answers = operation.track(self._stub.Pull(request, timeout=operation.remaining_s))
        first = _first(answers)
        if first.not_modified:
            _to_the_end(answers)
            return first
        return received(chain([first], answers), values)


def pushed(call: Any) -> parameters_pb2.PushResponse:
    """Wait for the answer to a `Push` that was begun."""
    answer: parameters_pb2.PushResponse = call.result()
    return answer


def received(answers: Iterator[Response], values: Sequence[Piece]) -> Response:
    """Receive values to the end of their stream, and return the first response."""
    first = _first(answers)
    receive(chain([first], answers), values)
    return first


def _only(requests: Iterator[Request]) -> tuple[Request | None, Iterator[Request]]:
    """Return the request if there is just one, and else None; and all of them."""
    begun = list(islice(requests, 2))
    return (begun[0] if len(begun) == 1 else None), chain(begun, requests)


def _to_the_end(answers: Iterator[Answer]) -> Iterator[Answer]:
    """Read all answers: only then a call has ended, and is not cancelled with the last reference to it."""
    return iter(list(answers))


def _first(answers: Iterator[Answer]) -> Answer:
    first = next(answers, None)
    if first is None:
        raise Internal("the parameter service answered nothing at all; its log may say why")
    return first
