"""Durable stores with a table, without a service, in a folder of a test; and stores in memory to compare them with."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from headrace_optimizers.row_config import RowOptimizer, RowWiseAdagrad
from headrace_optimizers.row_initializer import Uniform
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.state import TableState
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import recover
from headrace_parameters.live import LiveStore
from tests.unit.parameters.journal_files import LAYOUT, LENGTH, SELDOM, config, push_of

DIM = 2


def table(
    optimizer: RowOptimizer | None = None, *, max_rows: int = 0, max_idle_steps: int = 0, max_bytes: int = 0
) -> TableConfig:
    return TableConfig(
        "users",
        DIM,
        Uniform(-1, 1),
        optimizer or RowWiseAdagrad(0.1),
        max_rows=max_rows,
        max_idle_steps=max_idle_steps,
        max_bytes=max_bytes,
    )


def row_push(step: int, worker: int = 0, keys: int = 4, range_of_keys: int = 40) -> RowPush:
    """Return a push of rows whose keys, one of them twice, differ from step to step."""
    random = np.random.default_rng([step, worker, 7])
    chosen = random.integers(0, range_of_keys, keys).astype(np.uint64)
    chosen[-1] = chosen[0]
    return RowPush(worker, step, 1.0 + worker, chosen, random.standard_normal((keys, DIM)).astype(np.float32))


class KeptStore:
    """A durable store, whose process may die at any moment."""

    def __init__(
        self,
        folder: Path,
        settings: StoreConfig,
        declared: TableConfig,
        limits: Limits = SELDOM,
        force: Callable[[int], object] = os.fdatasync,
    ) -> None:
        self.folder, self.settings, self.limits, self.force = folder, settings, limits, force
        journal = Journal(folder, settings, limits, Observers(), force=force)
        self.live = LiveStore(settings, datetime.now(UTC), journal=journal)
        self.live.initialize(LAYOUT, np.ones(LENGTH, np.float32), [declared])

    def push_rows(self, push: RowPush) -> bool:
        return self.live.push_rows(self.live.tables["users"], push)

    def push(self, step: int, worker: int = 0) -> bool:
        return self.live.push(push_of(step, worker))

    def snapshot(self) -> None:
        """Write one now and wait for it."""
        assert self.live.journal
        with self.live.alone():
            self.live.journal.snapshot(self.live.state(self.live.journal.row_moments))
        self.live.journal._finish_writing()

    def die(self) -> int:
        """Let the next process take over; return how many changes it made again."""
        assert self.live.journal
        self.live.journal.close()
        found = recover(self.folder, self.settings)
        journal = Journal(
            self.folder,
            self.settings,
            self.limits,
            Observers(),
            sequence=found.sequence,
            tail=found.tail,
            force=self.force,
            chains=found.chains,
            unsound=found.unsound,
        )
        self.live = LiveStore(
            self.settings, datetime.now(UTC), found.shard, journal=journal, tables=found.tables
        )
        return found.changes


def in_memory(settings: StoreConfig, declared: TableConfig) -> LiveStore:
    """Return a store that never dies."""
    store = LiveStore(replace(settings, durability=Durability.MEMORY), datetime.now(UTC))
    store.initialize(LAYOUT, np.ones(LENGTH, np.float32), [declared])
    return store


def state_of(store: LiveStore) -> TableState:
    with store.alone():
        return store.tables["users"].state()


def same_rows(one: LiveStore, other: LiveStore) -> bool:
    """Tell whether two stores have the same rows, to the bit, after the same pushes; dense values too."""
    mine, theirs = state_of(one), state_of(other)
    parts = ("keys", "values", "state", "touched", "former_keys", "former_values")
    return (
        all(getattr(mine, part).equal(getattr(theirs, part)) for part in parts)
        and (mine.version, mine.last_steps, mine.members)
        == (theirs.version, theirs.last_steps, theirs.members)
        and one.published is not None
        and other.published is not None
        and np.array_equal(one.published.values, other.published.values)
    )


def durable(
    consistency: Consistency = Consistency.ASYNC, *, maximum_gradient_norm: float = 0.0
) -> StoreConfig:
    bound = 3 if consistency is Consistency.SSP else 0
    return config(consistency, staleness_bound=bound, maximum_gradient_norm=maximum_gradient_norm)
