"""A durable shard without a service: the core and its journal, in a folder of a test."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.ranges import length
from headrace_optimizers.config import AdamW, Optimizer
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.contents import Contents
from headrace_parameters.core.kinds import Change, make, takes
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import Recovered, recover

LENGTH = 5
LAYOUT = FlatLayout((TensorSpec("w", (LENGTH,)),))
SELDOM = Limits(log_bytes=1 << 30, log_pushes=1 << 30)


def config(
    consistency: Consistency = Consistency.ASYNC,
    optimizer: Optimizer | None = None,
    durability: Durability = Durability.PROCESS,
    schedule: Schedule = CONSTANT,
    staleness_bound: int = 0,
    backup_workers: int = 0,
    maximum_gradient_norm: float = 0.0,
    shard_index: int = 0,
    shard_count: int = 1,
    tables: tuple[TableConfig, ...] = (),
) -> StoreConfig:
    return StoreConfig(
        name=StoreName("default", "run"),
        epoch=3,
        shard_index=shard_index,
        shard_count=shard_count,
        worker_count=2,
        consistency=consistency,
        optimizer=optimizer or AdamW(0.1),
        durability=durability,
        schedule=schedule,
        staleness_bound=staleness_bound,
        backup_workers=backup_workers,
        maximum_gradient_norm=maximum_gradient_norm,
        tables=tables,
    )


def gradient(step: int, worker: int = 0) -> Floats:
    return np.random.default_rng([step, worker]).standard_normal(LENGTH).astype(np.float32)


def push_of(step: int, worker: int = 0) -> Push:
    return Push(worker, step, samples=1.0 + worker, gradient=gradient(step, worker))


class JournaledShard:
    """A shard whose changes are written first, as `LiveStore` does it."""

    def __init__(
        self,
        folder: Path,
        settings: StoreConfig,
        limits: Limits = SELDOM,
        force: Callable[[int], object] = os.fdatasync,
    ) -> None:
        self.folder = folder
        self.shard = Shard(settings)
        self.journal = Journal(folder, settings, limits, Observers(), force=force)

    def initialize(self) -> None:
        self.shard.initialize(LAYOUT, np.ones(length(self.shard.held(LAYOUT)), np.float32))
        self.journal.rebase(self.shard.state())

    def push(self, step: int, worker: int = 0) -> None:
        assert self.make(push_of(step, worker))

    def make(self, change: Change) -> bool:
        if not takes(Contents(self.shard), change):
            return False
        self.journal.append(Sealed.of(change))
        make(Contents(self.shard), change)
        self.journal.wait(self.journal.position)
        return True

    def restart(self) -> None:
        """Be the process that finds the files which one has left that was killed."""
        found = recover(self.folder, self.shard.config)
        self.journal.close()
        self.shard = found.shard
        self.journal = Journal(
            self.folder,
            found.shard.config,
            SELDOM,
            Observers(),
            sequence=found.sequence,
            tail=found.tail,
            unsound=found.unsound,
        )

    def snapshot(self) -> None:
        """Write one now and wait for it."""
        self.journal.snapshot(self.shard.state())
        self.journal._finish_writing()

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("log-*"))

    def snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("snapshot-*"))


def model(settings: StoreConfig, pushes: int, push: Callable[[int], list[Push]]) -> ShardState:
    """Return what a shard that never died holds after as many pushes."""
    shard = Shard(settings)
    shard.initialize(LAYOUT, np.ones(LENGTH, np.float32))
    for step in range(pushes):
        for one in push(step):
            assert shard.push(one)
    return shard.state()


def same(found: Recovered, expected: ShardState) -> bool:
    """Tell whether values and optimizer state are equal to the bit."""
    state = found.shard.state()
    return (
        state.version == expected.version
        and state.last_steps == expected.last_steps
        and state.values.equal(expected.values)
        and state.optimizer_state.keys() == expected.optimizer_state.keys()
        and all(
            tensor.equal(expected.optimizer_state[name]) for name, tensor in state.optimizer_state.items()
        )
    )
