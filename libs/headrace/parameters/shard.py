"""The calls of one worker to one shard."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import grpc

from headrace.errors import Internal, SharedMemoryUnavailable
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.operation import Operation
from headrace.parameters.recoding import parameters_stub
from headrace.parameters.shared_shard import SharedShard
from headrace.parameters.v1 import parameters_pb2, stores_pb2, stores_pb2_grpc
from headrace.parameters.v1.shared_memory_pb2 import SharedValues
from headrace.parameters.wire import Piece, carry, layout_to_proto, receive

Response = TypeVar("Response", parameters_pb2.PullResponse, parameters_pb2.PushPullResponse)


Version = TypeVar("Version", int, int | None)
Lent = Callable[[], SharedValues]


class ShardClient:
    """One shard of a store, as one worker of one epoch sees it. Every method may be repeated without harm.

    Values travel through shared memory until the shard, or the system, refuses it for the first time, then by streams.
    """

    def __init__(
        self, channel: grpc.Channel, store: str, *, epoch: int, worker: int, shared_memory: bool
    ) -> None:
        self._shared = SharedShard(channel, store, epoch=epoch, worker=worker) if shared_memory else None
        self.shares_memory = False  # until values have travelled so
        self.why_not_shared = "" if shared_memory else "shared memory is turned off"
        self._parameters = parameters_stub(channel)
        self._stores = stores_pb2_grpc.StoresStub(channel)
        self._store = store
        self._epoch = epoch
        self._worker = worker

    def get(self, operation: Operation) -> stores_pb2.Store:
        """Ask what the shard is."""
        request = stores_pb2.GetStoreRequest(name=self._store)
        return operation.track(self._stores.GetStore.future(request, timeout=operation.remaining_s)).result()

    def initialize(self, operation: Operation, layout: FlatLayout, values: Floats) -> int:
        """Give the shard its first values, shape (shard's length,); return the version it has now."""
        first = parameters_pb2.InitializeRequest(
            store=self._store, epoch=self._epoch, tensors=layout_to_proto(layout)
        )
        requests = carry(first, [Piece(0, values)])
        call = self._parameters.Initialize.future(requests, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def push(
        self, operation: Operation, step: int, gradient: Floats, samples: float, lent: Lent | None = None
    ) -> int:
        """Send the shard's part of a gradient; return the version the shard has now.

        Args:
            lent: Says where `gradient` lies in shared memory, once the shard may read it there.
        """
        header = self._header(step, samples)
        if lent and self._shared:
            try:
                return self._proven(self._shared.push(operation, header, lent()))
            except SharedMemoryUnavailable as why:
                self._refused(why)
        first = parameters_pb2.PushRequest(store=self._store, header=header)
        requests = carry(first, [Piece(0, gradient)])
        call = self._parameters.Push.future(requests, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def pull(
        self,
        operation: Operation,
        min_version: int,
        names: Sequence[str],
        pieces: Sequence[Piece],
        length: int,
    ) -> int:
        """Receive values into `pieces`, of the `length` the shard holds; return their version."""
        if self._shared:
            try:
                version = self._proven(self._shared.pull(operation, min_version, pieces, length))
            except SharedMemoryUnavailable as why:
                self._refused(why)
            else:
                if version is not None:
                    return version
        request = parameters_pb2.PullRequest(
            store=self._store, epoch=self._epoch, min_version=min_version, tensors=names
        )
        call = operation.track(self._parameters.Pull(request, timeout=operation.remaining_s))
        return _receive(call, pieces)

    def push_pull(
        self,
        operation: Operation,
        step: int,
        gradient: Floats,
        samples: float,
        values: Floats,
        lent: Lent | None = None,
    ) -> int:
        """Send the shard's part of a gradient, receive the new values into `values`; return their version."""
        header = self._header(step, samples)
        if lent and self._shared:
            try:
                version = self._proven(self._shared.push_pull(operation, header, lent(), values))
            except SharedMemoryUnavailable as why:
                self._refused(why)
            else:
                if version is not None:
                    return version
        first = parameters_pb2.PushPullRequest(store=self._store, header=header)
        requests = carry(
            first, [Piece(0, gradient)]
        )  # a second time, if the values were lost: a duplicate then
        call = operation.track(self._parameters.PushPull(requests, timeout=operation.remaining_s))
        return _receive(call, [Piece(0, values)])

    def snapshot(self, operation: Operation) -> stores_pb2.SnapshotResponse:
        """Save the shard in the registry."""
        request = stores_pb2.SnapshotRequest(name=self._store, epoch=self._epoch)
        return operation.track(self._stores.Snapshot.future(request, timeout=operation.remaining_s)).result()

    def release(self, nonce: bytes) -> None:
        """Let go of all memory that is shared with the shard; `nonce` names the worker's segment, if there is one."""
        if self._shared and nonce and self.shares_memory:
            self._shared.release(nonce)
        self._shared = None

    def _proven(self, version: Version) -> Version:
        self.shares_memory = True
        return version

    def _refused(self, why: SharedMemoryUnavailable) -> None:
        """Use streams from now on."""
        self._shared, self.shares_memory, self.why_not_shared = None, False, why.message

    def _header(self, step: int, samples: float) -> parameters_pb2.PushHeader:
        return parameters_pb2.PushHeader(worker=self._worker, epoch=self._epoch, step=step, samples=samples)


def _receive(responses: Iterator[Response], pieces: Sequence[Piece]) -> int:
    first = next(responses, None)
    if first is None:
        raise Internal("the parameter service answered nothing at all; its log may say why")
    receive(chain([first], responses), pieces)
    return first.version
