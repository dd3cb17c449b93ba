"""Rows of a table that go from the shards which held them to those that shall hold them, by the arcs of their keys."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.parameters.keys import Arcs, Keys, arc_of
from headrace_parameters.core.rows.state import TableState


def cut_out(state: TableState, arcs: Arcs) -> TableState:
    """Return the state with the rows of these arcs alone."""
    chosen = torch.from_numpy(arcs[arc_of(_keys(state))])
    return replace(
        state,
        keys=state.keys[chosen],
        values=state.values[chosen],
        state=state.state[chosen],
        touched=state.touched[chosen],
    )


def joined(parts: Sequence[TableState]) -> TableState:
    """Return the state of a table with the rows of all parts, one or more, of different arcs; a worker's clock is the least one.

    Raises:
        InvalidArgument: They are of different tables.
        FailedPrecondition: They are not of one point of the run.
    """
    first = parts[0]
    for part in parts:
        _check_together(first, part)
    keys = torch.cat([part.keys for part in parts])
    order = torch.from_numpy(np.argsort(keys.numpy().view(np.uint64)))
    return replace(
        first,
        last_steps={worker: min(part.last_steps[worker] for part in parts) for worker in first.last_steps},
        keys=keys[order],
        values=torch.cat([part.values for part in parts])[order],
        state=torch.cat([part.state for part in parts])[order],
        touched=torch.cat([part.touched for part in parts])[order],
    )


def joined_tables(parts: Sequence[Mapping[str, TableState]]) -> dict[str, TableState]:
    """Return the tables of a shard, put together from what others had of them.

    Raises:
        InvalidArgument, FailedPrecondition: As `joined`.
    """
    names = list(parts[0])
    if any(sorted(part) != sorted(names) for part in parts):
        raise InvalidArgument(
            "the shards have different tables; give those of one store at one moment", field="snapshots"
        )
    return {name: joined([part[name] for part in parts]) for name in names}


def _check_together(one: TableState, other: TableState) -> None:
    if (one.declaration, one.optimizer) != (other.declaration, other.optimizer):
        raise InvalidArgument(
            "the shards have a table that was declared differently; give those of one store",
            field="snapshots",
        )
    facts = [(part.version, part.members, part.last_steps.keys()) for part in (one, other)]
    if facts[0] != facts[1]:
        raise FailedPrecondition(
            f"the shards are not at one point of the run: a table has versions {one.version} and {other.version}; rows cannot move "
            "between them"
        )


def _keys(state: TableState) -> Keys:
    keys: Keys = state.keys.numpy().view(np.uint64)
    return keys
