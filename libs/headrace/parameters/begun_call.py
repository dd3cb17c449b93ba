"""A call that is begun before there is a gradient, to one shard."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from headrace.errors import (
    HeadraceError,
    MembersChanged,
    NonFiniteValues,
    NotPrimary,
    OutOfRange,
    PermissionDenied,
    RunFinished,
    ShardMapChanged,
    StaleEpoch,
    Unauthenticated,
)
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.wire import Piece

# Which the whole gradient would meet as well, if it were sent to the same shard for the same step.
_FINAL = (
    MembersChanged,
    NonFiniteValues,
    NotPrimary,
    OutOfRange,
    PermissionDenied,
    RunFinished,
    ShardMapChanged,
    StaleEpoch,
    Unauthenticated,
)

Request = TypeVar("Request", parameters_pb2.PushRequest, parameters_pb2.PushPullRequest)
Answer = TypeVar("Answer")


class BegunCall(Generic[Request]):
    """The `Push` or `PushPull` of one shard, which waits for its chunks.

    Args:
        first: Has everything but chunks.
        begin: Makes the call with these requests.
    """

    def __init__(
        self, gradient_filter: ShardFilter, first: Request, begin: Callable[[Iterator[Request]], Any]
    ) -> None:
        self.sent = 0  # values that gRPC has taken
        self._filter = gradient_filter
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()  # None: that was all
        self._call = begin(self._requests(first))

    def feed(self, piece: Piece) -> None:
        """Send a chunk; its values stay as they are until the call has ended."""
        self._pieces.put(piece)

    def finish(self, operation: Operation, read: Callable[[Any], Answer]) -> Answer | None:
        """Let the shard take the gradient, and read its answer; None: something went wrong, and the whole gradient must be sent, again.

        Raises:
            HeadraceError: What the shard would refuse the whole gradient with, too.
        """
        operation.track(self._call)
        self._pieces.put(None)
        try:
            return read(self._call)
        except _FINAL:
            raise
        except HeadraceError:
            return None

    def cancel(self) -> None:
        """End the call, unless it has ended; the shard takes nothing."""
        self._call.cancel()
        self._pieces.put(None)  # after: the end of the stream is not what the shard shall see

    def _requests(self, first: Request) -> Iterator[Request]:
        yield first
        while piece := self._pieces.get():
            try:
                message = self._filter.chunk(type(first)(), piece)
            except NonFiniteValues:  # the whole gradient is refused then, and the caller told why
                self._call.cancel()
                return
            yield message
            self.sent += piece.values.size
