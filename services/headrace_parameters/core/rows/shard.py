"""One shard of a table: rows that workers push to and pull, by the rules of the store's consistency.

Each table counts versions and steps by itself: a step has one push to each table, beside that of the dense tensors, and (worker, step)
is applied once in each. Not thread-safe: its owner lets one call in at a time.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from headrace.errors import InvalidArgument, ShapeMismatch
from headrace.parameters.keys import Arcs, Keys
from headrace.parameters.layout import Floats
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.members import Members
from headrace_parameters.core.rows.chain import newest
from headrace_parameters.core.rows.evictions import Evictions
from headrace_parameters.core.rows.former import UNCHANGED, Former
from headrace_parameters.core.rows.grouping import summed
from headrace_parameters.core.rows.held import HeldRows
from headrace_parameters.core.rows.memory import LATEST
from headrace_parameters.core.rows.part import TablePart, push_of
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.state import Moment, TableState
from headrace_parameters.core.rows.table import Reserve, Rows, RowTable
from headrace_parameters.core.rows.turns import Turns


class RowShard:
    """The rows of a table that live on one shard, and whose push is next.

    Args:
        config: The store's.
        table: The table's, one of `config.tables`.
        reserve: As `RowTable`.
        members: Whose pushes count; None: those of the workers that the store is made for.
    """

    def __init__(
        self, config: StoreConfig, table: TableConfig, reserve: Reserve, members: Members | None = None
    ) -> None:
        self.config = table
        self._store, self._reserve = config, reserve
        self.table = self._new_table()
        self.turns: Turns[RowPush] = Turns(config, members=members)
        self.held: HeldRows | None = None  # of a complete step that waits to be clipped

    @property
    def _remembers(self) -> bool:
        # Only steps that all do together are computed again, when members change.
        return self._store.consistency is Consistency.BSP

    def _new_table(self) -> RowTable:
        evictions = Evictions() if self._store.durability.logged else None
        return RowTable(
            self.config,
            self._store.shard_count,
            self._reserve,
            remembers=self._remembers,
            evictions=evictions,
        )

    def reserve_by(self, reserve: Reserve) -> None:
        """Ask somebody else for memory from now on."""
        self._reserve = self.table.reserve = reserve

    def former_for(self, step: int | None) -> Former | None:
        """Return the rows that the last update has changed, if `step` is to be computed with those before it."""
        bsp = self._store.consistency is Consistency.BSP
        return (
            self.table.former
            if bsp and step is not None and step + 1 == self.turns.progress.version
            else None
        )

    def takes(self, push: RowPush) -> bool:
        """Tell whether `push` would take this gradient; changes nothing.

        Raises:
            ShapeMismatch: Its rows have another length than the table's.
            InvalidArgument, OutOfRange: As `Turns.is_duplicate`.
        """
        if self.turns.is_duplicate(push.worker, push.step, push.generation):
            return False
        if push.gradient.shape[1] != self.config.dim:
            raise ShapeMismatch(
                f"the gradients have {push.gradient.shape[1]} values a row; table {self.config.name!r} has {self.config.dim}"
            )
        return True

    def push(self, push: RowPush) -> bool:
        """Take a gradient; return False, with nothing changed, if it was taken before or comes too late.

        In a store that clips, a complete step waits until `finish`.

        Raises:
            QuotaExceeded, ResourceExhausted: There is no room for new rows; nothing has changed, and the push is not taken.
            ShapeMismatch, InvalidArgument, OutOfRange: As `takes`.
        """
        if not self.takes(push):
            return False
        pushes = self.turns.effective(push.worker, push)
        if pushes is None:
            self.turns.keep(push.worker, push)
        elif self._store.maximum_gradient_norm:
            self._hold(pushes)
        else:
            self._apply(*_mean(pushes, self.config.dim))
            self.turns.advance(_steps(pushes))
        return True

    def _hold(self, pushes: Mapping[int, RowPush]) -> None:
        """Keep a complete step until the whole model's norm is known; then there is room for its rows."""
        keys, mean = summed(*_mean(pushes, self.config.dim))
        self.table.make_room(keys)
        self.held = HeldRows(_steps(pushes), keys, mean)
        self.turns.hold()

    def finish(self, weight: float) -> None:
        """Apply the complete step that is held, times a weight."""
        held, self.held = self.held, None
        assert held, "whoever clips has all of the step"
        self._apply(held.keys, held.weighted(weight))
        self.turns.advance(held.steps)

    def part(self, arcs: Arcs, workers: Collection[int]) -> TablePart:
        """Return a copy of what can move of these arcs, with the pushes of these workers for the step that is not complete."""
        pushes = {worker: push_of(self.turns.pending[worker], arcs) for worker in sorted(workers)}
        return TablePart(self.state(arcs=arcs), pushes)

    def take_over(self, part: TablePart) -> None:
        """Become what `part` says, as it is.

        Raises:
            InvalidArgument, QuotaExceeded, ResourceExhausted: As `restore`.
        """
        self.restore(part.state, part.state.members or self.turns.members)
        for worker, push in part.pushes.items():
            self.turns.keep(worker, push)

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on, as `Turns.change_members` does."""
        self.turns.change_members(generation, workers)

    def make_room(self, push: RowPush) -> None:
        """Make sure that `push` finds room for new rows: then nothing keeps it from taking what it `takes`.

        Raises:
            QuotaExceeded, ResourceExhausted: There is none; nothing has changed.
        """
        pushes = self.turns.effective(push.worker, push)
        if pushes:
            self.table.make_room(_mean(pushes, self.config.dim)[0])

    @property
    def between_steps(self) -> bool:
        """Whether `state` has all that was taken."""
        return not self.turns.waits and not self.held

    def state(self, since: Moment | None = None, arcs: Arcs | None = None) -> TableState:
        """Return all of it, but the pushes of a step that is not complete.

        Args:
            since: Of the rows only those that may have changed since then; None: all.
            arcs: And only those of these arcs; None: of all.
        """
        table = self.table
        rows, evictions = table.save(since.step if since else 0, arcs), table.evictions
        removed = evictions.since(since.evictions) if evictions and since else UNCHANGED.keys
        former = table.former or UNCHANGED
        return TableState(
            optimizer=type(self.config.optimizer).__name__,
            version=self.turns.progress.version,
            last_steps=dict(self.turns.last_steps),
            keys=torch.from_numpy(rows.keys.view(np.int64)),
            values=torch.from_numpy(rows.values),
            state=torch.from_numpy(rows.state),
            touched=torch.from_numpy(rows.touched),
            declaration=self.config,
            members=self.turns.members,
            former_keys=torch.from_numpy(former.keys.view(np.int64)),
            former_values=torch.from_numpy(former.values),
            since=since,
            removed=torch.from_numpy(removed.view(np.int64)),
            moment=Moment(min(self.turns.step, LATEST), evictions.count if evictions else 0),
        )

    def restore(self, state: TableState, members: Members) -> None:
        """Become what `state` says, with the pushes of these members from now on; those of a step that is not complete are dropped.

        Raises:
            InvalidArgument: It is the state of another table; nothing has changed.
            QuotaExceeded, ResourceExhausted: There is no room; nothing has changed.
        """
        kind = type(self.config.optimizer).__name__
        if state.optimizer != kind:
            raise InvalidArgument(
                f"the snapshot's table {self.config.name!r} has optimizer {state.optimizer}, this one {kind}; restore it to a table that "
                "was declared alike"
            )
        table = self._new_table()
        parts = (*state.before, state)
        for part, chosen in zip(parts, newest(parts), strict=True):
            table.load(_rows(part), chosen)
        if self._remembers:
            table.former = Former(state.former_keys.numpy().view(np.uint64), state.former_values.numpy())
        self.table, self.held = table, None
        own = members.going_on(state.members, state.version) if state.members else members
        self.turns = Turns(self._store, state.version, state.last_steps, own)

    def _apply(self, keys: Keys, gradient: Floats) -> None:
        """Update rows; a key that is there more than once gets the sum of its gradients."""
        if not keys.size:
            self.table.former = UNCHANGED
            return
        self.table.apply(
            keys,
            gradient,
            update=self.turns.progress.version,
            step=self.turns.step,
            factor=self.config.schedule.factor(self.turns.step),
        )


def _steps(pushes: Mapping[int, RowPush]) -> dict[int, int]:
    return {worker: push.step for worker, push in pushes.items()}


def _mean(pushes: Mapping[int, RowPush], dim: int) -> tuple[Keys, Floats]:
    """Return keys, and what the mean of the gradients, weighted by their samples, is the sum of; shape (n,) and (n, dim)."""
    total = sum(push.samples for push in pushes.values())
    # In the order of the workers, not of arrival: sums of floats depend on it, and a run must be repeatable.
    parts = [pushes[worker] for worker in sorted(pushes) if total > 0 and pushes[worker].keys.size]
    if not parts:
        return np.zeros(0, np.uint64), np.zeros((0, dim), np.float32)
    keys = np.concatenate([part.keys for part in parts]) if len(parts) > 1 else parts[0].keys
    return keys, _weighted(parts, total)


def _rows(state: TableState) -> Rows:
    return Rows(
        keys=state.keys.numpy().view(np.uint64),
        values=state.values.numpy(),
        state=state.state.numpy(),
        touched=state.touched.numpy(),
    )


def _weighted(parts: list[RowPush], total: float) -> Floats:
    """Return the gradients of all parts, each times its share of the samples, shape (n, dim); the parts stay as they are."""
    scaled = [
        part.gradient if part.samples == total else part.gradient * np.float32(part.samples / total)
        for part in parts
    ]
    return scaled[0] if len(scaled) == 1 else np.concatenate(scaled)
