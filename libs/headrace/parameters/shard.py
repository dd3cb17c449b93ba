"""The calls of one worker to one shard."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.answers import Mark, Received
from headrace.parameters.begun_call import BegunCall
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.filters.config import NONE, Compression
from headrace.parameters.layout import FlatLayout
from headrace.parameters.operation import Operation
from headrace.parameters.recoding import parameters_stub
from headrace.parameters.shared_shard import SharedShard
from headrace.parameters.standing import ask_primary
from headrace.parameters.streams import ValueStreams, pushed, received
from headrace.parameters.v1 import (
    compression_pb2,
    members_pb2,
    parameters_pb2,
    stores_pb2,
    stores_pb2_grpc,
)
from headrace.parameters.v1.shared_memory_pb2 import SharedValues
from headrace.parameters.v1.tables_pb2 import Table
from headrace.parameters.wanted import Wanted
from headrace.parameters.wire import (
    Piece,
    carry,
    layout_to_proto,
    pulled_from_proto,
    push_pulled_from_proto,
)

Answer = TypeVar("Answer")
Heard = TypeVar("Heard", Received, parameters_pb2.PushResponse)
Lent = Callable[[], SharedValues]


class ShardClient:
    """One shard of a store, as one worker of one epoch sees it. Every method may be repeated without harm.

    Values travel through shared memory until the shard, or the system, refuses it for the first time, then by streams.
    """

    def __init__(
        self, channel: grpc.Channel, store: str, *, epoch: int, worker: int, shared_memory: bool
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._worker = worker
        self._share = shared_memory
        self._shared: SharedShard | None = None
        self.turn_to(channel)
        self.term = 0  # the greatest that a primary has answered in
        self.map_epoch = 1  # of the shard map that the caller goes by
        self._filter = ShardFilter(NONE)
        self.generation = 0  # of the members, as of the last place that the worker took

    def turn_to(self, channel: grpc.Channel) -> None:
        """Talk to another process, which has taken the shard over."""
        if self._shared:
            self._shared.forget()
        store, epoch, worker = self._store, self._epoch, self._worker
        self._shared = SharedShard(channel, store, epoch=epoch, worker=worker) if self._share else None
        self.shares_memory = False  # until values have travelled so
        self.why_not_shared = "" if self._share else "shared memory is turned off"
        self._parameters = parameters_stub(channel)
        self._streams = ValueStreams(channel)
        self._stores = stores_pb2_grpc.StoresStub(channel)

    def get(self, operation: Operation) -> stores_pb2.Store:
        """Ask what the shard is.

        Raises:
            NotPrimary: The process holds it, but does not serve it.
        """
        store = ask_primary(self._stores, self._store, operation)
        self.term = max(self.term, store.assignment.term)
        return store

    def follow(self, map_epoch: int, compression: Compression) -> None:
        """Go by this shard map, and do this to gradients; what was kept back under another map is dropped."""
        self.map_epoch, self._filter = map_epoch, ShardFilter(compression)

    def initialize(
        self, operation: Operation, layout: FlatLayout, values: Sequence[Piece], tables: Sequence[Table]
    ) -> int:
        """Give the shard its first values, and tables; return the version it has now."""
        first = parameters_pb2.InitializeRequest(store=self._store, epoch=self._epoch, tables=tables)
        first.tensors.extend(layout_to_proto(layout))
        call = self._parameters.Initialize.future(carry(first, values), timeout=operation.remaining_s)
        return operation.track(call).result().version

    def push(
        self,
        operation: Operation,
        step: int,
        gradient: Sequence[Piece],
        samples: float,
        lent: Lent | None = None,
        coverage: parameters_pb2.Coverage | None = None,
        begun: BegunCall[Any] | None = None,
    ) -> int:
        """Send the shard's part of a gradient; return the version the shard has now.

        Args:
            lent: Says where `gradient` lies in shared memory, once the shard may read it there.
            coverage: What the push is for; None: all values.
            begun: By which it is on its way.
        """
        if begun and (sent := begun.finish(operation, pushed)):
            return self._heard(sent).version
        header = self._header(step, samples, coverage)
        if lent and self._shared:
            try:
                return self._heard(self._proven(self._shared.push(operation, header, lent()))).version
            except SharedMemoryUnavailable as why:
                self._refused(why)
        first = parameters_pb2.PushRequest(store=self._store, header=header)
        requests = self._filter.carry(first, gradient, partial=coverage is not None)
        answer = self._streams.push(operation, requests)
        self._filter.sent()
        return self._heard(answer).version

    def pull(
        self,
        operation: Operation,
        wanted: Wanted,
        pieces: Sequence[Piece],
        length: int,
        known: Mark | None = None,
    ) -> Received:
        """Receive values into `pieces`.

        Args:
            length: Number of values the shard holds.
            known: What the pieces hold: nothing is sent if there is nothing newer.
        """
        request = wanted.request(self._store, self._epoch, self.map_epoch, known)
        if self._shared:
            try:
                copied = self._proven(self._shared.pull(operation, request, pieces, length))
            except SharedMemoryUnavailable as why:
                self._refused(why)
            else:
                if copied is not None:
                    return self._heard(copied)
        return self._heard(pulled_from_proto(self._streams.pull(operation, request, pieces)))

    def pull_as_member(
        self, operation: Operation, version: int | None, pieces: Sequence[Piece]
    ) -> parameters_pb2.PullResponse:
        """Receive values into `pieces`: of exactly this version, or the newest; MembersChanged if the generation has."""
        member = members_pb2.MemberView(generation=self.generation, version=version)
        request = parameters_pb2.PullRequest(
            store=self._store,
            epoch=self._epoch,
            member=member,
            map_epoch=self.map_epoch,
            encoding=compression_pb2.ENCODING_FLOAT32,
        )
        return self._streams.pull(operation, request, pieces)

    def push_pull(
        self,
        operation: Operation,
        step: int,
        gradient: Sequence[Piece],
        samples: float,
        values: Sequence[Piece],
        lent: Lent | None = None,
        begun: BegunCall[Any] | None = None,
    ) -> Received:
        """Send the shard's part of a gradient, receive the new values into `values`.

        Args:
            begun: By which it is on its way.
        """
        if begun and (sent := begun.finish(operation, partial(received, values=values))):
            return self._heard(push_pulled_from_proto(sent))
        header = self._header(step, samples)
        if lent and self._shared:
            try:
                copied = self._proven(self._shared.push_pull(operation, header, lent(), values))
            except SharedMemoryUnavailable as why:
                self._refused(why)
            else:
                if copied is not None:
                    return self._heard(copied)
        first = parameters_pb2.PushPullRequest(store=self._store, header=header)
        # a second time, if the values were lost: a duplicate then
        requests = self._filter.carry(first, gradient)
        answer = self._streams.push_pull(operation, requests, values)
        self._filter.sent()
        return self._heard(push_pulled_from_proto(answer))

    def begin(self, step: int, samples: float, timeout_s: float, *, pulls: bool) -> BegunCall[Any] | None:
        """Begin a `push` of a gradient that is still computed, or a `push_pull`; None: it goes through memory, or can only be sent whole."""
        if self._shared or not self._filter.by_chunk:
            return None
        store, header, streams = self._store, self._header(step, samples), self._streams
        if pulls:
            both = parameters_pb2.PushPullRequest(store=store, header=header)
            return BegunCall(self._filter, both, partial(streams.begin_push_pull, timeout_s=timeout_s))
        only = parameters_pb2.PushRequest(store=store, header=header)
        return BegunCall(self._filter, only, partial(streams.begin_push, timeout_s=timeout_s))

    def step_norms(
        self, operation: Operation, step: int, norms: parameters_pb2.Norms.ValueType
    ) -> Sequence[float] | None:
        """Wait until the step is complete and return the squared norms of the shard's part; None: it is long applied."""
        request = parameters_pb2.GetStepNormRequest(
            store=self._store,
            epoch=self._epoch,
            step=step,
            norms=norms,
            generation=self.generation,
            map_epoch=self.map_epoch,
        )
        call = self._parameters.GetStepNorm.future(request, timeout=operation.remaining_s)
        answer = operation.track(call).result()
        if answer.finished:
            return None
        return [answer.squared_norm] if norms == parameters_pb2.NORMS_GRADIENT else answer.tensor_norms

    def finish_step(
        self,
        operation: Operation,
        step: int,
        norms: parameters_pb2.Norms.ValueType,
        squared: Sequence[float],
    ) -> int:
        """Let the step go on with norms over all shards; return the shard's version."""
        whole = norms == parameters_pb2.NORMS_GRADIENT
        told = {"squared_norm": squared[0]} if whole else {"tensor_norms": squared}
        request = parameters_pb2.FinishStepRequest(
            store=self._store, epoch=self._epoch, step=step, norms=norms, map_epoch=self.map_epoch, **told
        )
        call = self._parameters.FinishStep.future(request, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def prepare_snapshot(self, operation: Operation) -> Mapping[int, int]:
        """Let the shard take no further push for a moment; return the step that each worker pushes next."""
        request = stores_pb2.PrepareSnapshotRequest(name=self._store, epoch=self._epoch)
        call = self._stores.PrepareSnapshot.future(request, timeout=operation.remaining_s)
        return operation.track(call).result().next_steps

    def snapshot(self, operation: Operation, next_steps: Mapping[int, int]) -> stores_pb2.SnapshotResponse:
        """Save the shard in the registry, as it is when each worker has pushed so far; empty: as it is now."""
        request = stores_pb2.SnapshotRequest(
            name=self._store, epoch=self._epoch, next_steps=next_steps, map_epoch=self.map_epoch
        )
        return operation.track(self._stores.Snapshot.future(request, timeout=operation.remaining_s)).result()

    def finish_run(self, operation: Operation) -> None:
        """Let every call of the run, also of other workers, fail with RunFinished."""
        request = stores_pb2.FinishRunRequest(name=self._store, epoch=self._epoch, generation=self.generation)
        operation.track(self._stores.FinishRun.future(request, timeout=operation.remaining_s)).result()

    def take_back(self, nonce: bytes, sequence: int) -> None:
        """Return when the shard reads nothing any more of what the worker has lent."""
        if self._shared:
            self._shared.take_back(nonce, sequence)

    def release(self, *nonces: bytes) -> None:
        """Let go of all memory that is shared with the shard; `nonces` name the worker's segments, those that are there."""
        if self._shared:
            for nonce in filter(None, nonces) if self.shares_memory else ():
                self._shared.release(nonce)
            self._shared.forget()
        self._shared = None

    def _heard(self, answer: Heard) -> Heard:
        self.term = max(self.term, answer.term)
        return answer

    def _proven(self, answer: Answer) -> Answer:
        self.shares_memory = True
        return answer

    def _refused(self, why: SharedMemoryUnavailable) -> None:
        """Use streams from now on."""
        self._shared, self.shares_memory, self.why_not_shared = None, False, why.message

    def _header(
        self, step: int, samples: float, coverage: parameters_pb2.Coverage | None = None
    ) -> parameters_pb2.PushHeader:
        return parameters_pb2.PushHeader(
            coverage=coverage,
            worker=self._worker,
            epoch=self._epoch,
            step=step,
            samples=samples,
            generation=self.generation,
            map_epoch=self.map_epoch,
        )
