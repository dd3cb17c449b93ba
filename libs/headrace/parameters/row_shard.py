"""The calls of one worker to the tables of one shard."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

import grpc

from headrace.errors import HeadraceError, SharedMemoryUnavailable, Unavailable, Unimplemented
from headrace.parameters.answers import Received
from headrace.parameters.filters.config import Compression
from headrace.parameters.keys import Keys
from headrace.parameters.lane_stub import LaneStub
from headrace.parameters.layout import Floats
from headrace.parameters.operation import Operation
from headrace.parameters.packed import array_of, packed
from headrace.parameters.recoding import rows_stub
from headrace.parameters.row_parts import AskedRows, RowGradient
from headrace.parameters.segments import MappedSegment
from headrace.parameters.standing import ask_primary
from headrace.parameters.v1 import (
    parameters_pb2,
    rows_pb2,
    shared_rows_pb2,
    shared_rows_pb2_grpc,
    stores_pb2,
    stores_pb2_grpc,
)
from headrace.parameters.v1.shared_memory_pb2 import SharedValues

_RELEASE_S = 1.0  # only a courtesy: a shard that does not hear of it notices when the worker's process ends

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class _Future(Protocol[Answer_co]):
    def cancel(self) -> bool:
        """End it."""

    def result(self) -> Answer_co:
        """Wait for the answer."""


class RowShardClient:
    """The tables of one shard, as one worker of one epoch sees them. Every method may be repeated without harm.

    Rows travel through shared memory until the shard, or the system, refuses it for the first time, then in messages.
    """

    def __init__(
        self, channel: grpc.Channel, store: str, *, epoch: int, worker: int, shared_memory: bool
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._worker = worker
        self._share = shared_memory
        self._shared: LaneStub[shared_rows_pb2_grpc.SharedRowsStub] | None = None
        self.turn_to(channel)
        self.term = 0  # the greatest that a primary has answered in
        self.map_epoch = 0  # of the shard map that the caller goes by; 0: it knows none, and spreads rows as a first map does
        self.generation = 0  # of the members, as of the last place that the worker took

    def turn_to(self, channel: grpc.Channel) -> None:
        """Talk to another process, which has taken the shard over."""
        if self._shared:
            self._shared.close()
        stub = shared_rows_pb2_grpc.SharedRowsStub
        self._shared = LaneStub(channel, self._store, stub) if self._share else None
        self._mapped: MappedSegment | None = None  # where the shard puts its answers
        self.shares_memory = False  # until rows have travelled so
        self.why_not_shared = "" if self._share else "shared memory is turned off"
        self._rows = rows_stub(channel)
        self._stores = stores_pb2_grpc.StoresStub(channel)

    def get(self, operation: Operation) -> stores_pb2.Store:
        """Ask what the shard is.

        Raises:
            NotPrimary: The process holds it, but does not serve it.
        """
        store = ask_primary(self._stores, self._store, operation)
        self.term = max(self.term, store.assignment.term)
        return store

    def follow(self, map_epoch: int, _: Compression) -> None:
        """Go by this shard map; rows travel as they are."""
        self.map_epoch = map_epoch

    def push(
        self, operation: Operation, table: str, step: int, samples: float, gradient: RowGradient
    ) -> Received:
        """Send the shard's part of a gradient; return the version of the table there, and the worker's next step."""
        header = self._header(step, samples)
        if self._shared and gradient.lent_keys:
            request = shared_rows_pb2.PushRowsSharedRequest(
                store=self._store,
                table=table,
                header=header,
                keys=gradient.lent_keys,
                gradients=gradient.lent_gradients,
            )
            taken = self._by_memory(
                operation,
                self._shared,
                lambda stub: stub.PushRowsShared.future(request, timeout=operation.remaining_s),
                lambda answer: self._taken(answer.response),
            )
            if taken:
                return taken
        message = packed(
            rows_pb2.PushRowsRequest(store=self._store, table=table, header=header),
            keys=gradient.keys,
            gradients=gradient.gradients,
        )
        sent = self._rows.PushRows.future(message, timeout=operation.remaining_s)
        return self._taken(operation.track(sent).result())

    def pull(
        self, operation: Operation, table: str, min_version: int, step: int | None, asked: AskedRows
    ) -> Received:
        """Receive the shard's part of some rows: of at least this version, and ones that `step` may be computed with."""
        if self._shared and asked.lent_keys:
            request = shared_rows_pb2.PullRowsSharedRequest(
                store=self._store,
                table=table,
                epoch=self._epoch,
                worker=self._worker,
                min_version=min_version,
                step=step,
                generation=self._generation_for(step),
                map_epoch=self.map_epoch,
                keys=asked.lent_keys,
            )
            received = self._by_memory(
                operation,
                self._shared,
                lambda stub: stub.PullRowsShared.future(request, timeout=operation.remaining_s),
                lambda answer: self._pulled(answer.response) if self._copy(answer.values, asked) else None,
            )
            if received:
                return received
        message = packed(
            rows_pb2.PullRowsRequest(
                store=self._store,
                table=table,
                epoch=self._epoch,
                min_version=min_version,
                step=step,
                generation=self._generation_for(step),
                map_epoch=self.map_epoch,
            ),
            keys=asked.keys,
        )
        call_rows = self._rows.PullRows.future(message, timeout=operation.remaining_s)
        response = operation.track(call_rows).result()
        asked.take(array_of(response, "values"))
        return self._pulled(response)

    def push_pull(
        self,
        operation: Operation,
        table: str,
        step: int,
        samples: float,
        gradient: RowGradient,
        asked: AskedRows,
    ) -> Received:
        """Send the shard's part of a gradient, receive that of some rows for the next step."""
        header = self._header(step, samples)
        if self._shared and gradient.lent_keys and asked.lent_keys:
            request = shared_rows_pb2.PushPullRowsSharedRequest(
                store=self._store,
                table=table,
                header=header,
                keys=gradient.lent_keys,
                gradients=gradient.lent_gradients,
                pull_keys=asked.lent_keys,
            )
            received = self._by_memory(
                operation,
                self._shared,
                lambda stub: stub.PushPullRowsShared.future(request, timeout=operation.remaining_s),
                lambda answer: self._received(answer.response) if self._copy(answer.values, asked) else None,
            )
            if received:
                return received
        # A second time, if the rows were lost: a duplicate then.
        message = packed(
            rows_pb2.PushPullRowsRequest(store=self._store, table=table, header=header),
            keys=gradient.keys,
            gradients=gradient.gradients,
            pull_keys=asked.keys,
        )
        call_rows = self._rows.PushPullRows.future(message, timeout=operation.remaining_s)
        response = operation.track(call_rows).result()
        asked.take(array_of(response, "values"))
        return self._received(response)

    def scan(self, operation: Operation, table: str) -> Iterator[tuple[Keys, Floats]]:
        """Receive all rows that the shard holds, some at a time: keys, shape (n,), and rows, shape (n * dim,)."""
        cursor = 0
        while True:
            request = rows_pb2.ScanRowsRequest(
                store=self._store, table=table, epoch=self._epoch, cursor=cursor, map_epoch=self.map_epoch
            )
            call = self._rows.ScanRows.future(request, timeout=operation.remaining_s)
            response = operation.track(call).result()
            yield array_of(response, "keys"), array_of(response, "values")
            cursor = response.next_cursor
            if not cursor:
                return

    def _generation_for(self, step: int | None) -> int | None:
        """Return the generation to tell when rows for `step` are asked for; a reader has none."""
        return self.generation if self._epoch and step is not None else None

    def release(self, nonce: bytes) -> None:
        """Let go of all memory that is shared with the shard; `nonce` names the worker's segment, if there is one."""
        if self._shared and nonce and self.shares_memory:
            request = shared_rows_pb2.ReleaseRowsSharedRequest(
                store=self._store, worker=self._worker, nonce=nonce
            )
            with suppress(HeadraceError):
                self._shared.direct.ReleaseRowsShared(request, timeout=_RELEASE_S)
        self._forget_shared()

    def _forget_shared(self) -> None:
        self._lose()
        self._shared = None

    def _lose(self) -> None:
        """Let go of the shard's memory and of the lane; the next call finds others."""
        if self._shared:
            self._shared.close()
        self._mapped = None

    def _by_memory(
        self,
        operation: Operation,
        shared: LaneStub[shared_rows_pb2_grpc.SharedRowsStub],
        call: Callable[[shared_rows_pb2_grpc.SharedRowsStub], _Future[Answer]],
        take: Callable[[Answer], Received | None],
    ) -> Received | None:
        """Call with rows in shared memory; None: they could not travel so, and must go in a message."""
        try:
            return take(self._answer(operation, call(shared.for_call(operation, self._lose))))
        except SharedMemoryUnavailable as why:
            self._refused(why)
            return None

    def _answer(self, operation: Operation, call: _Future[Answer_co]) -> Answer_co:
        try:
            answer = operation.track(call).result()
        except Unimplemented as error:
            raise SharedMemoryUnavailable(f"the service knows no shared memory: {error.message}") from error
        except Unavailable:
            self._lose()  # the process may be gone, and nobody else keeps its memory
            raise
        self.shares_memory = True
        return answer

    def _copy(self, where: SharedValues, asked: AskedRows) -> bool:
        """Copy an answer; return False if it was overwritten meanwhile, by a call of ours that was given up."""
        if self._mapped is None or self._mapped.nonce != where.segment.nonce:
            self._mapped = MappedSegment(where.segment)
        asked.take(self._mapped.part(where))
        return self._mapped.is_current(where)

    def _refused(self, why: SharedMemoryUnavailable) -> None:
        """Use messages from now on."""
        self._forget_shared()
        self.shares_memory, self.why_not_shared = False, why.message

    def _header(self, step: int, samples: float) -> parameters_pb2.PushHeader:
        return parameters_pb2.PushHeader(
            worker=self._worker,
            epoch=self._epoch,
            step=step,
            samples=samples,
            generation=self.generation,
            map_epoch=self.map_epoch,
        )

    def _pulled(self, response: rows_pb2.PullRowsResponse) -> Received:
        self.term = max(self.term, response.term)
        return Received(response.version, response.staleness)

    def _taken(self, response: rows_pb2.PushRowsResponse) -> Received:
        self.term = max(self.term, response.term)
        return Received(response.version, 0, response.next_step)

    def _received(self, response: rows_pb2.PushPullRowsResponse) -> Received:
        self.term = max(self.term, response.term)
        return Received(response.version, response.staleness, response.next_step)
