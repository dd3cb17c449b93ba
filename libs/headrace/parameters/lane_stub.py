"""A service of a shard that is called by a lane where there is one."""

from collections.abc import Callable
from typing import Generic, TypeVar

import grpc

from headrace.errors import SharedMemoryUnavailable, TooManyCalls, Unavailable, Unimplemented
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import shared_memory_pb2, shared_memory_pb2_grpc
from headrace.rpc.lanes.channel import LaneChannel

Stub = TypeVar("Stub")


class LaneStub(Generic[Stub]):
    """The stub of a service whose rpcs are all unary, on a lane that is opened with the first call.

    Args:
        store: A store of the shard's process, whose callers may open lanes.
        make: The class of the stub.
    """

    def __init__(self, channel: grpc.Channel, store: str, make: Callable[[grpc.Channel], Stub]) -> None:
        self.direct = make(channel)
        self._opening = shared_memory_pb2_grpc.SharedMemoryStub(channel)
        self._store = store
        self._make = make
        self._opened: tuple[LaneChannel, Stub] | None = None
        self._refused = False

    def for_call(self, operation: Operation, lost: Callable[[], object]) -> Stub:
        """Return what to call by: the lane, or gRPC where there is none or another thread's call has it.

        Args:
            lost: Called if the process cannot be reached: it may be gone, and nobody else keeps its memory.
        Raises:
            Unavailable: The process cannot be reached.
            SharedMemoryUnavailable: The process shares no memory, and so has no lanes.
        """
        opened = self._opened  # another thread may hang up meanwhile
        if opened and not opened[0].is_open:
            self.close()
            opened = None
        if opened is None and not self._refused:
            try:
                opened = self._opened = self._open(operation)
            except Unavailable:
                lost()
                raise
        if opened and opened[0].is_free:
            return opened[1]
        return self.direct

    def close(self) -> None:
        """Hang up; the next call opens another lane."""
        opened, self._opened = self._opened, None
        if opened:
            opened[0].close()

    def _open(self, operation: Operation) -> tuple[LaneChannel, Stub] | None:
        request = shared_memory_pb2.OpenLaneRequest(store=self._store)
        call = self._opening.OpenLane.future(request, timeout=operation.remaining_s)
        try:
            lane = LaneChannel(operation.track(call).result().lane)
        except (SharedMemoryUnavailable, TooManyCalls, Unimplemented):
            self._refused = True
            return None
        return lane, self._make(lane.for_stubs)
