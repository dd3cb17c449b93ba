"""The SharedRows service on the wire: the Rows service, but for where keys, gradients and rows lie."""

from typing import TYPE_CHECKING

from grpc import ServicerContext

from headrace.errors import SharedMemoryUnavailable
from headrace.names import StoreName
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import rows_pb2, shared_rows_pb2, shared_rows_pb2_grpc
from headrace.parameters.v1.shared_memory_pb2 import SharedValues
from headrace_parameters.core.rows.turns import Progress
from headrace_parameters.live import LiveStore
from headrace_parameters.row_segments import RowSegments
from headrace_parameters.rows_servicer import (
    RowsServicer,
    answered,
    generation_of,
    gradient_rows,
    pulled,
    step_of,
)

if TYPE_CHECKING:
    from headrace_parameters.live_table import LiveTable


class SharedRowsServicer(shared_rows_pb2_grpc.SharedRowsServicer):
    """Hands what it finds in memory to a `RowsServicer`, so that the same rules hold.

    Args:
        segments: None: this process shares no memory, and refuses every call.
    """

    def __init__(self, rows: RowsServicer, segments: RowSegments | None) -> None:
        self._rows = rows
        self._maybe_segments = segments

    def PushRowsShared(
        self, request: shared_rows_pb2.PushRowsSharedRequest, context: ServicerContext
    ) -> shared_rows_pb2.PushRowsSharedResponse:
        """Take a gradient."""
        store, table = self._rows.find(
            request.store, request.table, request.header.epoch, request.header.map_epoch
        )
        pushed = self._push(store, table, request)
        return shared_rows_pb2.PushRowsSharedResponse(response=pushed)

    def PullRowsShared(
        self, request: shared_rows_pb2.PullRowsSharedRequest, context: ServicerContext
    ) -> shared_rows_pb2.PullRowsSharedResponse:
        """Say where rows lie."""
        store, table = self._rows.find(request.store, request.table, request.epoch, request.map_epoch)
        table.store.fence(request.epoch)
        keys = self._segments.keys(store, request.worker, request.keys)
        step, generation = step_of(request), generation_of(request)
        progress, where = self._pull(
            store, request.worker, table, keys, step, request.min_version, context, generation
        )
        response = pulled(store, progress, step)
        return shared_rows_pb2.PullRowsSharedResponse(response=response, values=where)

    def PushPullRowsShared(
        self, request: shared_rows_pb2.PushPullRowsSharedRequest, context: ServicerContext
    ) -> shared_rows_pb2.PushPullRowsSharedResponse:
        """Take a gradient, then say where rows lie that hold it."""
        store, table = self._rows.find(
            request.store, request.table, request.header.epoch, request.header.map_epoch
        )
        worker = request.header.worker
        keys = self._segments.keys(store, worker, request.pull_keys)
        pushed = self._push(store, table, request)
        step = request.header.step + 1
        generation = request.header.generation
        progress, where = self._pull(store, worker, table, keys, step, 0, context, generation)
        response = answered(table, pushed, progress, request.header)
        return shared_rows_pb2.PushPullRowsSharedResponse(response=response, values=where)

    def ReleaseRowsShared(
        self, request: shared_rows_pb2.ReleaseRowsSharedRequest, context: ServicerContext
    ) -> shared_rows_pb2.ReleaseRowsSharedResponse:
        """Let go of a worker's segments."""
        self._segments.release(StoreName.parse(request.store, field="store"), request.worker, request.nonce)
        return shared_rows_pb2.ReleaseRowsSharedResponse()

    def _push(
        self,
        store: LiveStore,
        table: "LiveTable",
        request: shared_rows_pb2.PushRowsSharedRequest | shared_rows_pb2.PushPullRowsSharedRequest,
    ) -> rows_pb2.PushRowsResponse:
        segments, worker = self._segments, request.header.worker

        def gradient() -> tuple[Keys, Floats]:
            keys = segments.keys(store, worker, request.keys)
            return keys, gradient_rows(table, keys, segments.values(store, worker, request.gradients))

        return self._rows.push(store, table, request.header, gradient)

    def _pull(
        self,
        store: LiveStore,
        worker: int,
        table: "LiveTable",
        keys: Keys,
        step: int | None,
        min_version: int,
        context: ServicerContext,
        generation: int | None = None,
    ) -> tuple[Progress, SharedValues]:
        """Write rows to the worker's segment of answers; return how far the table is, and where they are."""
        shape = keys.size, table.config.dim
        with self._segments.answer(store, worker, keys.size * table.config.dim) as answer:
            progress = self._rows.pull(
                table, keys, step, min_version, context, lambda: answer.memory().reshape(shape), generation
            )
            return progress, answer.located()

    @property
    def _segments(self) -> RowSegments:
        if self._maybe_segments is None:
            raise SharedMemoryUnavailable("shared memory is turned off: HEADRACE_PARAMETERS_SHARED_MEMORY")
        return self._maybe_segments
