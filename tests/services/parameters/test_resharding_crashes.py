"""Durable shards that are killed at any moment of a change of their map: one map comes of it, and every gradient is in it once.

The participants, their files, and how those in doubt find out are the real ones; who leads them, and dies, is played by hypothesis.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RunFinished
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.live import LiveStore
from headrace_parameters.live_table import LiveTable
from tests.services.parameters.resharding_machines import (
    KEPT,
    KEYS,
    LAYOUT,
    START,
    WORDS,
    WORKERS,
    World,
    all_rows,
    gradient,
    gradient_of_rows,
)


def play(world: World, order: Sequence[int], moments: int, killed: Collection[int]) -> None:
    """Lead the change for some moments, then kill."""
    for moment, _ in enumerate(world.lead(order)):
        if moment == moments:
            break
    for index in killed:
        world.machines[index].kill()
    world.end()


@pytest.mark.parametrize("tables", [(), (WORDS,)], ids=["dense", "rows"])
@pytest.mark.parametrize("durability", [stores_pb2.DURABILITY_PROCESS, stores_pb2.DURABILITY_DISK])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whoever_is_killed_at_whatever_moment_one_map_comes_of_it_and_every_gradient_counts_once(
    durability: stores_pb2.Durability.ValueType, tables: Sequence[TableConfig], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(3)))
    moments = data.draw(st.integers(0, 9))
    killed = data.draw(st.sets(st.integers(0, 2)))
    with TemporaryDirectory() as folder:
        log_pushes = data.draw(st.sampled_from([2, 1000]))  # with snapshots before and after, or without
        world = World(Path(folder), durability, tables, log_pushes)

        play(world, order, moments, killed)

        maps = [machine.store.map for machine in world.machines]
        assert {each.epoch for each in maps if each} == {2 if world.decided else 1}
        assert [machine.store.next_map for machine in world.machines] == [None] * 3
        holders = range(3 if world.decided else 2)
        for index in holders:
            assert not any([world.push(worker, 1, index) for worker in WORKERS][KEPT])
        world.restart()
        assert [machine.part for machine in world.machines] == [None] * 3
        values = np.empty(60, np.float32)
        for index in holders:
            published = world.machines[index].store.published
            assert published
            assert published.version == 2
            held = np.concatenate(
                [np.arange(part.start, part.stop) for part in world.machines[index].store.held(LAYOUT)]
            )
            values[held] = published.values
            for table in world.machines[index].store.tables.values():
                check_rows(world.machines[index].store, table)
        expected = START - sum(gradient(worker, step) for worker in WORKERS for step in (0, 1)) / np.float32(
            3
        )
        assert np.allclose(values, expected, rtol=0, atol=1e-4)
        world.close()


def check_rows(store: LiveStore, table: LiveTable) -> None:
    """A shard has the rows of its arcs, each with every gradient once, and no others."""
    assert store.map
    mine = KEYS[store.map.shard_of(KEYS) == store.config.shard_index]
    touched = np.unique(
        np.concatenate([gradient_of_rows(worker, step)[0] for worker in WORKERS for step in (0, 1)])
    )
    assert table.progress.version == 2
    assert table.facts().rows == np.isin(mine, touched).sum()
    rows = np.empty((mine.size, 2), np.float32)
    table.pull(mine, None, 0, 1, lambda: True, lambda: rows)
    np.testing.assert_allclose(rows, all_rows((0, 1))[mine.astype(int)], rtol=0, atol=1e-4)


def test_a_run_that_ends_in_the_middle_is_over_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, stores_pb2.DURABILITY_PROCESS)
    for moment, _ in enumerate(world.lead((2, 1, 0))):
        if moment == 4:  # 2 and 1 have staged
            break
    world.machines[1].store.finish()

    world.restart()

    with pytest.raises(RunFinished):
        world.push(2, 1, 1)
    world.close()


def test_a_coordinator_that_comes_back_elsewhere_is_asked_there_once_somebody_says_where(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, stores_pb2.DURABILITY_PROCESS)
    for moment, _ in enumerate(world.lead((2, 1, 0))):
        if moment == 4:  # 2 and 1 have staged
            break
    coordinator, _, joiner = world.machines
    coordinator.kill()
    coordinator.start()
    world.left.add("0")
    assert joiner.part

    joiner.resolver.hear(joiner.store.config.name, {0: "10"})
    joiner.resolver.resolve(joiner.part)

    assert joiner.store.next_map is None
    assert joiner.store.map is None
    world.close()
