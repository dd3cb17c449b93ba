"""Rows that go from the shards of one map to those of the next: over the wire, with the gradients that wait."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.names import StoreName
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.config import Sgd
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd
from headrace_optimizers.row_initializer import Uniform
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.rows.part import whole
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.shard import RowShard
from headrace_parameters.moving_rows import messages, received

DIM = 3
Tables = Mapping[int, RowShard]


def made(shard_map: ShardMap, optimizer: RowOptimizer, consistency: Consistency) -> Tables:
    name, count = StoreName("default", "run"), len(shard_map.shards)
    table = TableConfig("users", DIM, Uniform(-1, 1), optimizer)
    return {
        shard: RowShard(
            StoreConfig(name, 1, shard, count, 2, consistency, Sgd(0.1), joins=True), table, lambda _: None
        )
        for shard in shard_map.shards
    }


def push(tables: Tables, shard_map: ShardMap, worker: int, step: int) -> list[bool]:
    generator = np.random.default_rng([worker, step])
    keys = generator.integers(0, 40, 10).astype(np.uint64) * np.uint64(0x123456789ABCDEF)
    gradient = generator.normal(size=(10, DIM)).astype(np.float32)
    owners = shard_map.shard_of(keys)
    return [
        table.push(RowPush(worker, step, 1.0 + worker, keys[owners == shard], gradient[owners == shard]))
        for shard, table in tables.items()
    ]


def moved(now: ShardMap, following: ShardMap, tables: Tables, workers: list[int], fresh: Tables) -> Tables:
    for shard, table in fresh.items():
        mine = following.arc_owners == shard
        parts = []
        for source, held in tables.items():
            arcs = mine & (now.arc_owners == source)
            if arcs.any():
                part = held.part(arcs, workers)
                parts.append(part if source == shard else received(messages("users", part))["users"])
        table.take_over(whole(parts))
    return fresh


def rows(tables: Tables) -> list[npt.NDArray[Any]]:
    found = [table.table.save() for table in tables.values()]
    keys = np.concatenate([each.keys for each in found])
    order = np.argsort(keys)
    values, state = (
        np.concatenate(each)[order]
        for each in zip(*((part.values, part.state) for part in found), strict=True)
    )
    return [keys[order], values, state]


@settings(deadline=None, max_examples=40)
@given(
    first=st.integers(1, 4),
    join=st.integers(0, 2),
    leave=st.integers(0, 3),
    steps=st.integers(0, 3),
    waits=st.booleans(),
    optimizer=st.sampled_from([RowSgd(0.1), RowAdagrad(0.1), RowAdam(0.1)]),
    consistency=st.sampled_from([Consistency.BSP, Consistency.ASYNC]),
)
def test_a_table_goes_on_at_other_shards_as_it_would_have_where_it_was(
    first: int,
    join: int,
    leave: int,
    steps: int,
    waits: bool,
    optimizer: RowOptimizer,
    consistency: Consistency,
) -> None:
    now = ShardMap.first(10, first)
    following = now.changed(range(first, first + join), range(min(leave, first - (join == 0))))
    stays, goes = (made(now, optimizer, consistency) for _ in range(2))
    waits = waits and consistency is Consistency.BSP
    for tables in (stays, goes):
        for step in range(steps):
            assert all(push(tables, now, 0, step) + push(tables, now, 1, step))
        if waits:
            assert all(push(tables, now, 0, steps))

    there = moved(now, following, goes, [0] if waits else [], made(following, optimizer, consistency))

    for step in range(steps, steps + 2):
        for tables, by in ((stays, now), (there, following)):
            known = waits and step == steps
            assert set(push(tables, by, 0, step)) == {not known}
            assert all(push(tables, by, 1, step))
    for old, new in zip(rows(stays), rows(there), strict=True):
        assert np.array_equal(old, new)
    progress = {table.turns.progress for table in [*stays.values(), *there.values()]}
    assert len(progress) == 1


def test_a_table_without_rows_or_gradients_moves_too() -> None:
    now, following = ShardMap.first(10, 1), ShardMap.first(10, 1).changed([1])
    tables = made(now, RowAdagrad(0.1), Consistency.BSP)
    empty = RowPush(0, 0, 1.0, np.zeros(0, np.uint64), np.zeros((0, DIM), np.float32))
    assert tables[0].push(empty)

    there = moved(now, following, tables, [0], made(following, RowAdagrad(0.1), Consistency.BSP))

    assert all(not table.push(empty) for table in there.values())
    assert rows(there)[0].size == 0
