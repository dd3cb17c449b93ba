"""Rows that move from shard to shard, as messages of `Resharding.FetchRows`."""

import json
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from headrace.parameters.v1 import resharding_pb2
from headrace.parameters.v1.resharding_pb2 import FetchRowsResponse
from headrace_parameters.core.rows.part import TablePart
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.state import TableState

_MESSAGE_BYTES = 8 << 20  # well below what a message may hold, and enough that its own cost does not count


def messages(table: str, part: TablePart) -> Iterator[FetchRowsResponse]:
    """Write a part of a table."""
    tensors, facts = part.state.encode()
    dim, width = part.state.values.shape[1], part.state.state.shape[1]
    yield FetchRowsResponse(table=table, facts=json.dumps(facts), dim=dim, state_width=width)
    for some in _pieces(len(part.state.keys), 4 * (dim + width) + 12):
        keys, values, state, touched = (
            tensors[name][some].numpy().tobytes() for name in ("keys", "values", "state", "touched")
        )
        yield FetchRowsResponse(table=table, keys=keys, values=values, state=state, touched=touched)
    for push in part.pushes.values():
        yield from _pushed(table, push)


def _pushed(table: str, push: RowPush) -> Iterator[FetchRowsResponse]:
    for some in _pieces(push.keys.size, 4 * push.gradient.shape[1] + 8) or [slice(0)]:
        pending = resharding_pb2.PendingRows(
            worker=push.worker,
            step=push.step,
            samples=push.samples,
            generation=push.generation,
            keys=push.keys[some].tobytes(),
            gradients=push.gradient[some].tobytes(),
        )
        yield FetchRowsResponse(table=table, pending=pending)


def _pieces(rows: int, row_bytes: int) -> list[slice]:
    each = max(1, _MESSAGE_BYTES // row_bytes)
    return [slice(start, start + each) for start in range(0, rows, each)]


def received(responses: Iterable[FetchRowsResponse]) -> dict[str, TablePart]:
    """Read parts of tables; InvalidArgument if they are none."""
    coming: dict[str, _Coming] = {}
    for response in responses:
        if response.table not in coming:
            coming[response.table] = _Coming(response)
        coming[response.table].take(response)
    return {name: table.part() for name, table in coming.items()}


class _Coming:
    """A part of a table that comes message by message."""

    def __init__(self, first: FetchRowsResponse) -> None:
        self._first = first
        self._rows: list[FetchRowsResponse] = []
        self._pushes: dict[int, list[resharding_pb2.PendingRows]] = {}

    def take(self, response: FetchRowsResponse) -> None:
        if response.HasField("pending"):
            self._pushes.setdefault(response.pending.worker, []).append(response.pending)
        else:
            self._rows.append(response)

    def part(self) -> TablePart:
        first, rows = self._first, self._rows
        tensors = {
            "keys": _read((each.keys for each in rows), "<i8"),
            "values": _read((each.values for each in rows), "<f4").reshape(-1, first.dim),
            "state": _read((each.state for each in rows), "<f4"),
            "touched": _read((each.touched for each in rows), "<i4"),
        }
        tensors["state"] = tensors["state"].reshape(len(tensors["keys"]), first.state_width)
        state = TableState.decode(
            {name: torch.from_numpy(array) for name, array in tensors.items()}, json.loads(first.facts)
        )
        return TablePart(state, {worker: self._push(pieces) for worker, pieces in self._pushes.items()})

    def _push(self, pieces: list[resharding_pb2.PendingRows]) -> RowPush:
        of = pieces[0]
        keys = _read((each.keys for each in pieces), "<u8")
        gradients = _read((each.gradients for each in pieces), "<f4").reshape(-1, self._first.dim)
        return RowPush(of.worker, of.step, of.samples, keys, gradients, of.generation)


def _read(pieces: Iterable[bytes], dtype: str) -> np.ndarray:
    """Return numbers in memory of their own, which may be written to."""
    return np.frombuffer(bytearray(b"".join(pieces)), dtype)
