"""What of a table moves to another shard: rows, and the pushes that wait for others of their step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.parameters.keys import Arcs, arc_of
from headrace_parameters.core.rows.cutting import joined
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.state import TableState


@dataclass(frozen=True)
class TablePart:
    """A part of a table.

    Args:
        state: With the rows of some arcs.
        pushes: By worker, with the gradients of rows of these arcs.
    """

    state: TableState
    pushes: Mapping[int, RowPush]


def push_of(push: RowPush, arcs: Arcs) -> RowPush:
    """Return what a push has for rows of these arcs."""
    chosen = arcs[arc_of(push.keys)]
    return _with(push, [(push.keys[chosen], push.gradient[chosen])])


def whole(parts: Sequence[TablePart]) -> TablePart:
    """Put parts, one or more, of different arcs together.

    Raises:
        InvalidArgument, FailedPrecondition: As `joined`.
    """
    first = parts[0]
    pushes = {
        worker: _with(push, [(each.pushes[worker].keys, each.pushes[worker].gradient) for each in parts])
        for worker, push in first.pushes.items()
    }
    return TablePart(joined([part.state for part in parts]), pushes)


def _with(push: RowPush, gradients: Sequence[tuple[np.ndarray, np.ndarray]]) -> RowPush:
    keys, rows = (np.concatenate(each) for each in zip(*gradients, strict=True))
    return RowPush(push.worker, push.step, push.samples, keys, rows, push.generation)
