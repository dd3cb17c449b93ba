"""The ways a gradient comes to a store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from headrace.errors import InvalidArgument
from headrace.parameters.gathering import gather
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import parameters_pb2
from headrace_parameters.core.exchange import Loan
from headrace_parameters.live import LiveStore

Pushed = TypeVar("Pushed", parameters_pb2.PushRequest, parameters_pb2.PushPullRequest)
Request = TypeVar(
    "Request", parameters_pb2.InitializeRequest, parameters_pb2.PushRequest, parameters_pb2.PushPullRequest
)


@dataclass(frozen=True)
class Brought:
    """A gradient that has come.

    Args:
        size_bytes: How much came.
        loan, finite: As of a `Push`.
    """

    gradient: Floats
    size_bytes: int
    loan: Loan | None = None
    finite: bool = False


# Brings a gradient of so many values to a store; it is not asked for one that is refused or known.
Bring = Callable[[LiveStore, int], Brought]


def streamed(first: Pushed, rest: Iterator[Pushed]) -> Bring:
    """Bring the gradient whose chunks are in these messages, in the order in which they were computed."""

    def bring(store: LiveStore, size: int) -> Brought:
        gradient = store.new_memory(size)
        gathered = gather(chain([first], rest), gradient)
        return Brought(gradient, gathered.size_bytes, finite=gathered.finite)

    return bring


def first_of(requests: Iterator[Request]) -> Request:
    """Return the first message of a stream; InvalidArgument without any."""
    first = next(requests, None)
    if first is None:
        raise InvalidArgument("the stream ended without a message; the first one names the store")
    return first
