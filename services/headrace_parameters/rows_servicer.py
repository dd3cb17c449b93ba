"""The Rows service on the wire."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from grpc import ServicerContext

from headrace.errors import InvalidArgument, NotFound, ShapeMismatch
from headrace.names import StoreName
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.packed import array_of, packed
from headrace.parameters.v1 import parameters_pb2, rows_pb2, rows_pb2_grpc, shared_rows_pb2
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.turns import Progress
from headrace_parameters.live import LiveStore
from headrace_parameters.metering import Meter
from headrace_parameters.parameters_servicer import wait_bound_s
from headrace_parameters.table import StoreTable

if TYPE_CHECKING:  # it compiles loops, which no process without a table needs
    from headrace_parameters.live_table import LiveTable

_SCANNED_BYTES = 32 << 20  # in one answer, well below what a message may hold


class RowsServicer(rows_pb2_grpc.RowsServicer):
    """Moves rows between the wire and the tables of a process's stores."""

    def __init__(self, stores: StoreTable, meter: Meter) -> None:
        self._stores = stores
        self._meter = meter

    def PushRows(
        self, request: rows_pb2.PushRowsRequest, context: ServicerContext
    ) -> rows_pb2.PushRowsResponse:
        """Take a gradient."""
        store, table = self.find(request.store, request.table, request.header.epoch, request.header.map_epoch)
        return self.push(store, table, request.header, lambda: _copied(table, request))

    def PullRows(
        self, request: rows_pb2.PullRowsRequest, context: ServicerContext
    ) -> rows_pb2.PullRowsResponse:
        """Send rows."""
        store, table = self.find(request.store, request.table, request.epoch, request.map_epoch)
        keys = _keys(request, "keys")
        values = np.empty((keys.size, table.config.dim), np.float32)
        step, generation = step_of(request), generation_of(request)
        progress = self.pull(table, keys, step, request.min_version, context, lambda: values, generation)
        response = pulled(store, progress, step)
        return packed(response, values=values)

    def PushPullRows(
        self, request: rows_pb2.PushPullRowsRequest, context: ServicerContext
    ) -> rows_pb2.PushPullRowsResponse:
        """Take a gradient, then send rows that hold it."""
        store, table = self.find(request.store, request.table, request.header.epoch, request.header.map_epoch)
        pushed = self.push(store, table, request.header, lambda: _copied(table, request))
        keys = _keys(request, "pull_keys")
        values = np.empty((keys.size, table.config.dim), np.float32)
        step = request.header.step + 1
        generation = request.header.generation
        progress = self.pull(table, keys, step, 0, context, lambda: values, generation)
        return packed(answered(table, pushed, progress, request.header), values=values)

    def ScanRows(
        self, request: rows_pb2.ScanRowsRequest, context: ServicerContext
    ) -> rows_pb2.ScanRowsResponse:
        """Send rows, whatever their keys."""
        _, table = self.find(request.store, request.table, request.epoch, request.map_epoch)
        most = max(1, _SCANNED_BYTES // (4 * table.config.dim + 8))
        count = min(request.limit or most, most)
        keys, values, cursor = table.scan(request.cursor, count)
        self._meter.sent(table.store, 0, values.nbytes)
        return packed(rows_pb2.ScanRowsResponse(next_cursor=cursor), keys=keys, values=values)

    def find(self, store: str, table: str, epoch: int, map_epoch: int) -> "tuple[LiveStore, LiveTable]":
        """Return a store and its table, if a call of this epoch, by this shard map, may use it now; epoch 0: a reader outside the run.

        Raises:
            QuotaExceeded: The project has used up its rate.
            NotFound: There is no such store or table here.
            StaleEpoch, FailedPrecondition: As `StoreConfig.fence`.
            NotPrimary: Another process serves the store.
            ShardMapChanged: As `ShardView.check_arcs`.
        """
        held = self._stores.get(StoreName.parse(store, field="store"))
        if epoch:
            held.config.fence(epoch)
        held.check_serves()
        held.check_arcs(map_epoch)
        found = held.tables.get(table)
        if found is None:
            raise NotFound(_no_table(held, table))
        self._meter.admit(held.config)
        return held, found

    def push(
        self,
        store: LiveStore,
        table: "LiveTable",
        header: parameters_pb2.PushHeader,
        gradient: Callable[[], tuple[Keys, Floats]],
    ) -> rows_pb2.PushRowsResponse:
        """Take a gradient.

        Args:
            gradient: Returns keys and gradients in memory of their own; not called if the push is known or refused.
        """
        table.store.fence(header.epoch)
        if header.HasField("coverage"):
            raise InvalidArgument(
                "header.coverage is for dense values; a push of rows covers those whose keys it has",
                field="header.coverage",
            )
        duplicate = table.is_duplicate(header.worker, header.step, header.generation)
        if not duplicate:
            keys, gradients = gradient()
            self._meter.received(table.store, keys.nbytes + gradients.nbytes)
            push = RowPush(header.worker, header.step, header.samples, keys, gradients, header.generation)
            duplicate = not store.push_rows(table, push)
        self._meter.pushed(table.store, duplicate=duplicate)
        return rows_pb2.PushRowsResponse(
            duplicate=duplicate,
            version=table.progress.version,
            next_step=table.next_step(header.worker),
            term=store.term,
        )

    def pull(
        self,
        table: "LiveTable",
        keys: Keys,
        step: int | None,
        min_version: int,
        context: ServicerContext,
        out: Callable[[], Floats],
        generation: int | None = None,
    ) -> Progress:
        """Read rows as `LiveTable.pull` does, until the caller's deadline."""
        context.add_callback(table.wake)  # a caller that goes away leaves no thread behind
        began, bound_s = time.monotonic(), wait_bound_s(context.time_remaining())
        progress = table.pull(keys, step, min_version, bound_s, context.is_active, out, generation)
        self._meter.waited(time.monotonic() - began)
        self._meter.sent(table.store, progress.staleness(step), 4 * keys.size * table.config.dim)
        return progress


def step_of(request: rows_pb2.PullRowsRequest | shared_rows_pb2.PullRowsSharedRequest) -> int | None:
    """Return what is to be computed with the rows; None: nothing."""
    return request.step if request.HasField("step") else None


def generation_of(request: rows_pb2.PullRowsRequest | shared_rows_pb2.PullRowsSharedRequest) -> int | None:
    """Return the generation of the caller's place; None: it is no member."""
    return request.generation if request.HasField("generation") else None


def pulled(store: LiveStore, progress: Progress, step: int | None) -> rows_pb2.PullRowsResponse:
    """Return what a pull of rows for `step` answers, without values."""
    return rows_pb2.PullRowsResponse(
        version=progress.version, staleness=progress.staleness(step), term=store.term
    )


def answered(
    table: "LiveTable",
    pushed: rows_pb2.PushRowsResponse,
    progress: Progress,
    header: parameters_pb2.PushHeader,
) -> rows_pb2.PushPullRowsResponse:
    """Return what a push and a pull answer together, without values."""
    return rows_pb2.PushPullRowsResponse(
        version=progress.version,
        staleness=progress.staleness(header.step + 1),
        duplicate=pushed.duplicate,
        next_step=table.next_step(header.worker),
        term=pushed.term,
    )


def gradient_rows(table: "LiveTable", keys: Keys, values: Floats) -> Floats:
    """Return the gradients of keys, shape (n, dim), which share the memory of `values`; ShapeMismatch if they are not n rows."""
    dim = table.config.dim
    if values.size != keys.size * dim:
        raise ShapeMismatch(
            f"{values.size} values came with {keys.size} keys; table {table.config.name!r} has {dim} values a row: send {keys.size * dim}"
        )
    return values.reshape(keys.size, dim)


def _copied(
    table: "LiveTable", request: rows_pb2.PushRowsRequest | rows_pb2.PushPullRowsRequest
) -> tuple[Keys, Floats]:
    keys = _keys(request, "keys")
    return keys, np.array(gradient_rows(table, keys, array_of(request, "gradients")), np.float32)


def _keys(
    request: rows_pb2.PushRowsRequest | rows_pb2.PullRowsRequest | rows_pb2.PushPullRowsRequest, field: str
) -> Keys:
    return np.array(array_of(request, field), np.uint64)


def _no_table(store: LiveStore, name: str) -> str:
    layout = store.layout
    if layout and name in {tensor.name for tensor in layout.tensors}:
        return f"{name!r} of {store.config.name} is a dense tensor; ask for it with Parameters.Pull"
    declared = ", ".join(store.tables) or "none"
    return f"{store.config.name} has no table {name!r} (it has {declared}); declare it in CreateStore"
