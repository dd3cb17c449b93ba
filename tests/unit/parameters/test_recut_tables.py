"""A checkpoint of m shards with tables is gone on from by n: every row goes to the shard of its arc, and nothing of the run changes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.config import Sgd
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_initializer import Uniform
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.shard import RowShard
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.recut import recut

WORKERS, DIM, KEYS = 2, 3, 60
LAYOUT = FlatLayout((TensorSpec("w", (10,)),))
OPTIMIZERS: list[RowOptimizer] = [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1), RowAdam(0.1)]
ASYNC = Consistency.ASYNC


def config(index: int, count: int, consistency: Consistency) -> StoreConfig:
    return StoreConfig(StoreName("default", "run"), 1, index, count, WORKERS, consistency, Sgd(0.1))


def table_with(optimizer: RowOptimizer, max_idle_steps: int = 0) -> TableConfig:
    return TableConfig("users", DIM, Uniform(-1, 1), optimizer, max_idle_steps=max_idle_steps)


class Run:
    """The shards of a store with a table, and what is pushed to them."""

    def __init__(
        self, shard_map: ShardMap, table: TableConfig, consistency: Consistency = Consistency.BSP
    ) -> None:
        self.map = shard_map
        count = len(shard_map.shards)
        self.configs = [config(index, count, consistency) for index in range(count)]
        self.tables = [RowShard(each, table, lambda _: None) for each in self.configs]

    def train(self, steps: range) -> None:
        for step in steps:
            for worker in range(WORKERS):
                generator = np.random.default_rng([worker, step])
                keys = generator.integers(0, KEYS, 12).astype(np.uint64) * np.uint64(0x123456789ABCDEF)
                gradient = generator.normal(size=(12, DIM)).astype(np.float32)
                owners = self.map.shard_of(keys)
                for shard, table in zip(self.map.shards, self.tables, strict=True):
                    mine = owners == shard
                    assert table.push(RowPush(worker, step, 1.0, keys[mine], gradient[mine]))

    def states(self) -> list[ShardState]:
        """Return what a snapshot has of each shard; the dense values are of no interest here."""
        states = []
        for place, table in zip(self.configs, self.tables, strict=True):
            dense = Shard(place)
            size = ShardMap.first(LAYOUT.size, len(self.configs)).length(place.shard_index)
            dense.initialize(LAYOUT, np.zeros(size, np.float32))
            shard = self.map.shards[place.shard_index]
            found = replace(dense.state(), shard_index=shard, tables={"users": table.state()})
            values = torch.zeros(self.map.length(shard))
            states.append(replace(found, map=self.map, values=values))
        return states

    def rows(self) -> list[npt.NDArray[Any]]:
        """Return all rows, by key."""
        found = [table.table.save() for table in self.tables]
        keys = np.concatenate([each.keys for each in found])
        order = np.argsort(keys)
        parts = ([each.values, each.state, each.touched] for each in found)
        return [keys[order], *(np.concatenate(each)[order] for each in zip(*parts, strict=True))]

    def gone_on(self, count: int, states: Sequence[ShardState] | None = None) -> "Run":
        """Return the run as `count` shards go on with it."""
        found = [
            recut(iter(states or self.states()), config(index, count, self.configs[0].consistency))
            for index in range(count)
        ]
        after = Run(found[0].map, self.tables[0].config, self.configs[0].consistency)
        for table, state in zip(after.tables, found, strict=True):
            table.restore(state.tables["users"], table.turns.members)
        return after


@settings(deadline=None, max_examples=40)
@given(
    saved=st.integers(1, 5),
    changed=st.booleans(),
    count=st.integers(1, 5),
    steps=st.integers(0, 3),
    optimizer=st.sampled_from(OPTIMIZERS),
    consistency=st.sampled_from([Consistency.BSP, ASYNC]),
)
def test_rows_go_on_with_any_number_of_shards_to_the_same_bits(
    saved: int,
    changed: bool,
    count: int,
    steps: int,
    optimizer: RowOptimizer,
    consistency: Consistency,
) -> None:
    shard_map = ShardMap.first(LAYOUT.size, saved)
    if changed:  # ids with gaps, and arcs that have moved
        shard_map = shard_map.changed(add=[saved, saved + 1], remove=[0])
    before = Run(shard_map, table_with(optimizer), consistency)
    before.train(range(steps))

    after = before.gone_on(count)

    for following in (range(0), range(steps, steps + 2)):
        for run in (before, after) if following else ():
            run.train(following)
        for old, new in zip(before.rows(), after.rows(), strict=True):
            assert np.array_equal(old, new)
        for shard, table in zip(after.map.shards, after.tables, strict=True):
            assert set(after.map.shard_of(table.table.save().keys).tolist()) <= {shard}
            assert table.turns.progress == before.tables[0].turns.progress


def test_a_push_of_rows_that_was_taken_before_is_known_by_every_new_shard() -> None:
    before = Run(ShardMap.first(10, 2), table_with(RowSgd(0.1)), ASYNC)
    before.train(range(3))

    for table in before.gone_on(3).tables:
        assert table.turns.is_duplicate(worker=1, step=2)
        assert not table.turns.is_duplicate(worker=1, step=3)


def test_idle_rows_are_forgotten_in_the_step_in_which_they_would_have_been() -> None:
    before = Run(ShardMap.first(10, 2), table_with(RowSgd(0.1), max_idle_steps=2))
    before.train(range(2))
    after = before.gone_on(3)

    for run in (before, after):
        run.train(range(2, 6))

    assert np.array_equal(before.rows()[0], after.rows()[0])


def test_no_more_snapshots_are_read_than_hold_arcs_or_values_of_a_shard() -> None:
    """One shard of many holds what some of the saved ones held."""
    states = Run(ShardMap.first(10, 4), table_with(RowSgd(0.1))).states()
    shard_map = ShardMap.first(10, 5)
    arcs = shard_map.arc_owners == 0
    needed = set(states[0].map.arc_owners[arcs].tolist())
    assert needed == {0}

    recut(iter(states[:1]), config(0, 5, Consistency.BSP))


def test_tables_that_do_not_go_together_are_refused() -> None:
    run = Run(ShardMap.first(10, 2), table_with(RowSgd(0.1)))
    first, second = run.states()
    other = second.tables["users"]

    with pytest.raises(FailedPrecondition, match="not at one point"):
        run.gone_on(1, [first, replace(second, tables={"users": replace(other, version=7)})])
    with pytest.raises(InvalidArgument, match="declared differently"):
        run.gone_on(1, [first, replace(second, tables={"users": replace(other, optimizer="RowAdam")})])
    with pytest.raises(InvalidArgument, match="different tables"):
        run.gone_on(1, [first, replace(second, tables={})])
    with pytest.raises(InvalidArgument, match="lack values"):
        run.gone_on(1, [first])
