"""A call that is begun before there is a gradient, to one shard."""

from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from headrace.errors import HeadraceError, NonFiniteValues
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.operation import Operation
from headrace.parameters.streams import ValueStreams, received
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.wire import Piece


class BegunCall:
    """The `PushPull` of one shard, which waits for its chunks.

    Args:
        first: Has everything but chunks.
        timeout_s: Bound of all of it, the computation of the gradient included.
    """

    def __init__(
        self,
        streams: ValueStreams,
        gradient_filter: ShardFilter,
        first: parameters_pb2.PushPullRequest,
        timeout_s: float,
    ) -> None:
        self.sent = 0  # values that gRPC has taken
        self._filter = gradient_filter
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()  # None: that was all
        self._call = streams.begin_push_pull(self._requests(first), timeout_s)

    def feed(self, piece: Piece) -> None:
        """Send a chunk; its values stay as they are until the call has ended."""
        self._pieces.put(piece)

    def finish(self, operation: Operation, values: Sequence[Piece]) -> parameters_pb2.PushPullResponse | None:
        """Let the shard take the gradient, and receive values; None: something went wrong, and the whole gradient must be sent, again."""
        operation.track(self._call)
        self._pieces.put(None)
        try:
            return received(self._call, values)
        except HeadraceError:
            return None

    def cancel(self) -> None:
        """End the call, unless it has ended; the shard takes nothing."""
        self._call.cancel()
        self._pieces.put(None)  # after: the end of the stream is not what the shard shall see

    def _requests(self, first: parameters_pb2.PushPullRequest) -> Iterator[parameters_pb2.PushPullRequest]:
        yield first
        while piece := self._pieces.get():
            try:
                message = self._filter.chunk(parameters_pb2.PushPullRequest(), piece)
            except NonFiniteValues:  # the whole gradient is refused then, and the caller told why
                self._call.cancel()
                return
            yield message
            self.sent += piece.values.size
