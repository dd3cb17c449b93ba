"""The calls of one worker to one shard of its own machine, with values in shared memory."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol, TypeVar

import grpc

from headrace.errors import (
    HeadraceError,
    ShapeMismatch,
    SharedMemoryUnavailable,
    Unavailable,
    Unimplemented,
)
from headrace.parameters.answers import Received
from headrace.parameters.lane_stub import LaneStub
from headrace.parameters.operation import Operation
from headrace.parameters.segments import MappedSegment
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2, shared_memory_pb2_grpc
from headrace.parameters.wire import Piece, pulled_from_proto, push_pulled_from_proto

_RELEASE_S = 1.0  # only a courtesy: a shard that does not hear of it notices when the worker's process ends
_TAKE_BACK_S = (
    5.0  # far longer than an update takes: a shard that does not answer does not run, or is not there
)
_MAPPED = (
    4  # segments kept mapped: a shard writes two of them in turn, and a third while a stream still reads one
)
_COPIES = 3  # tries to copy a version before it is overwritten; then a stream, which the shard keeps whole, is right


Answer_co = TypeVar("Answer_co", covariant=True)


class AnswerFuture(Protocol[Answer_co]):
    """A running unary call."""

    def cancel(self) -> bool:
        """End it."""

    def result(self) -> Answer_co:
        """Wait for the answer."""


class SharedShard:
    """One shard, as `headrace.parameters.shard.ShardClient` sees it.

    Every method raises SharedMemoryUnavailable if there is no shared memory with that shard: do the same by stream, which is right
    even if only the answer was out of reach, because a push is applied once.
    """

    def __init__(self, channel: grpc.Channel, store: str, *, epoch: int, worker: int) -> None:
        self._stub = LaneStub(channel, store, shared_memory_pb2_grpc.SharedMemoryStub)
        self._store = store
        self._epoch = epoch
        self._worker = worker
        self._mapped: OrderedDict[bytes, MappedSegment] = OrderedDict()

    def push(
        self,
        operation: Operation,
        header: parameters_pb2.PushHeader,
        gradient: shared_memory_pb2.SharedValues,
    ) -> parameters_pb2.PushResponse:
        """Lend the shard its part of a gradient; return what it answers."""
        request = shared_memory_pb2.PushSharedRequest(store=self._store, header=header, gradient=gradient)
        call = self._stub.for_call(operation, self.forget).PushShared.future(
            request, timeout=operation.remaining_s
        )
        return self._answer(operation, call).response

    def push_pull(
        self,
        operation: Operation,
        header: parameters_pb2.PushHeader,
        gradient: shared_memory_pb2.SharedValues,
        values: Sequence[Piece],
    ) -> Received | None:
        """Lend the shard its part of a gradient, and copy the new values.

        None: the gradient is taken, but the values were overwritten before they were copied.
        """
        request = shared_memory_pb2.PushPullSharedRequest(store=self._store, header=header, gradient=gradient)
        call = self._stub.for_call(operation, self.forget).PushPullShared.future(
            request, timeout=operation.remaining_s
        )
        answer = self._answer(operation, call)
        if not self._copy(answer.values, values, sum(piece.values.size for piece in values)):
            return None
        return push_pulled_from_proto(answer.response)

    def pull(
        self, operation: Operation, asked: parameters_pb2.PullRequest, pieces: Sequence[Piece], length: int
    ) -> Received | None:
        """Copy parts of the shard's `length` values; None: they were overwritten again and again."""
        request = shared_memory_pb2.PullSharedRequest(
            store=self._store,
            epoch=asked.epoch,
            map_epoch=asked.map_epoch,
            min_version=asked.min_version,
            step=asked.step if asked.HasField("step") else None,
            pushed_step=asked.pushed_step if asked.HasField("pushed_step") else None,
            known=asked.known if asked.HasField("known") else None,
        )
        for _ in range(_COPIES):
            call = self._stub.for_call(operation, self.forget).PullShared.future(
                request, timeout=operation.remaining_s
            )
            answer = self._answer(operation, call)
            if answer.response.not_modified or self._copy(answer.values, pieces, length):
                return pulled_from_proto(answer.response)
        return None

    def take_back(self, nonce: bytes, sequence: int) -> None:
        """Return when the shard does not read a gradient any more, or cannot be asked."""
        request = shared_memory_pb2.TakeBackSharedRequest(
            store=self._store, worker=self._worker, nonce=nonce, sequence=sequence
        )
        try:
            self._stub.direct.TakeBackShared(request, timeout=_TAKE_BACK_S)
        except HeadraceError:
            return

    def release(self, nonce: bytes) -> None:
        """Tell the shard that the worker's segment is not needed any more, if it listens."""
        request = shared_memory_pb2.ReleaseSharedRequest(store=self._store, worker=self._worker, nonce=nonce)
        try:
            self._stub.direct.ReleaseShared(request, timeout=_RELEASE_S)
        except HeadraceError:
            return

    def forget(self) -> None:
        """Let go of the shard's memory, and of the lane."""
        self._mapped.clear()
        self._stub.close()

    def _answer(self, operation: Operation, call: AnswerFuture[Answer_co]) -> Answer_co:
        try:
            return operation.track(call).result()
        except Unimplemented as error:
            raise SharedMemoryUnavailable(f"the service knows no shared memory: {error.message}") from error
        except Unavailable:
            self.forget()  # the process may be gone, and nobody else keeps its memory
            raise

    def _copy(self, where: shared_memory_pb2.SharedValues, pieces: Sequence[Piece], length: int) -> bool:
        """Copy parts of a shard's values; return False if they were overwritten meanwhile."""
        if where.count != length:
            raise ShapeMismatch(f"the shard has {where.count} values, not {length}: it is of another model")
        segment = self._map(where.segment)
        values = segment.part(where)
        for piece in pieces:
            piece.values[...] = values[piece.offset : piece.offset + piece.values.size]
        return segment.is_current(where)

    def _map(self, segment: shared_memory_pb2.Segment) -> MappedSegment:
        mapped = self._mapped.get(segment.nonce)
        if mapped is None:
            mapped = self._mapped[segment.nonce] = MappedSegment(segment)
        self._mapped.move_to_end(segment.nonce)
        while len(self._mapped) > _MAPPED:
            self._mapped.popitem(last=False)
        return mapped
