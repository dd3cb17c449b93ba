"""Shards in two processes, of which any one is lost at any moment of a change of their map: one map comes of it, and every gradient is in it once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.replicated_store import ReplicatedStore
from tests.services.parameters.resharding_machines import (
    KEPT,
    LAYOUT,
    START,
    WORDS,
    WORKERS,
    gradient,
    push_to,
)
from tests.services.parameters.resharding_pairs import ALL, PairsOfMachines
from tests.services.parameters.test_resharding_crashes import check_rows

MOMENTS = 6 + 6 + 3 + 6


def play(
    world: PairsOfMachines, order: Sequence[str], losses: Mapping[int, tuple[str, str, int]], led: int
) -> None:
    """Lead the change for some moments, lose processes at their moments, and let the authority notice some moments later."""
    notices: list[tuple[int, str, bool]] = []
    steps = world.lead(order)
    for moment in range(MOMENTS + 1):
        for name, how, later in (losses[moment],) if moment in losses else ():
            world.lose(name, how)
            notices.append((moment + later, name, how == "restarted"))
        for notice in [each for each in notices if each[0] == moment]:
            world.decide(notice[1], serves_again=notice[2])
            notices.remove(notice)
        if moment < led:
            world.step(steps)
        elif moment == led:
            world.stop_leading()
    for _, name, again in notices:
        world.decide(name, serves_again=again)
    world.end()


@pytest.mark.parametrize("tables", [(), (WORDS,)], ids=["dense", "rows"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whichever_process_of_each_shard_is_lost_at_whatever_moment_one_map_comes_of_it_and_every_gradient_counts_once(
    tables: Sequence[TableConfig], data: st.DataObject
) -> None:
    lose_some(stores_pb2.DURABILITY_REPLICA, ["killed", "cut off"], tables, data)


@settings(max_examples=8, deadline=None)  # each forces some hundred files to the disk
@given(data=st.data())
def test_so_it_is_where_they_come_back_with_their_files(data: st.DataObject) -> None:
    lose_some(stores_pb2.DURABILITY_REPLICA_DISK, ["killed", "cut off", "restarted"], (WORDS,), data)


def lose_some(
    durability: stores_pb2.Durability.ValueType,
    ways: Sequence[str],
    tables: Sequence[TableConfig],
    data: st.DataObject,
) -> None:
    order = data.draw(st.permutations(ALL))
    lost = data.draw(st.lists(st.sampled_from(ALL), max_size=3, unique_by=lambda name: name[1]))
    moments = data.draw(st.lists(st.integers(0, MOMENTS), min_size=3, max_size=3, unique=True))
    hows = st.tuples(st.sampled_from(ways), st.integers(0, 3))
    losses = {moment: (name, *data.draw(hows)) for moment, name in zip(moments, lost, strict=False)}
    with TemporaryDirectory() as folder, PairsOfMachines.made(Path(folder), durability, tables) as world:
        play(world, order, losses, data.draw(st.integers(0, MOMENTS)))
        check(world)


@pytest.mark.parametrize(
    ("led", "losses", "epoch"),
    [
        (12, {}, 1),
        (13, {}, 2),
        (14, {}, 2),
        (14, {14: ("p0", "killed", 0)}, 2),
        (14, {14: ("p0", "restarted", 0)}, 1),
    ],
    ids=[
        "all ready",
        "agreed",
        "its replica told",
        "its replica told and serving",
        "its replica told and given up",
    ],
)
def test_a_leader_that_stops_leaves_what_its_shard_has_decided(
    tmp_path: Path, led: int, losses: Mapping[int, tuple[str, str, int]], epoch: int
) -> None:
    durability = stores_pb2.DURABILITY_REPLICA_DISK
    with PairsOfMachines.made(tmp_path, durability, ()) as world:
        play(world, ALL, losses, led)

        assert check(world) == epoch


def check(world: PairsOfMachines) -> int:
    """Go on with the run at whoever serves, and see that it is whole; return the epoch of the map."""
    served = {shard: world.store(name) for shard, name in world.serving.items()}
    epochs = {store.map.epoch for store in served.values() if store.map}
    assert epochs in ({1}, {2})
    assert epochs == {2} or not world.told
    holders = range(3 if epochs == {2} else 2)
    for shard in holders:
        machine = world.machines[world.serving[shard]]
        assert not any([push_to(machine, worker, 1) for worker in WORKERS][KEPT])
    values = np.empty(60, np.float32)
    for shard in holders:
        published = served[shard].published
        assert published
        assert published.version == 2
        values[held_by(served[shard])] = published.values
        for table in served[shard].tables.values():
            check_rows(served[shard], table)
    expected = START - sum(gradient(worker, step) for worker in WORKERS for step in (0, 1)) / np.float32(3)
    assert np.allclose(values, expected, rtol=0, atol=1e-4)
    return 2 if epochs == {2} else 1


def held_by(store: ReplicatedStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return where in the flat vector the values are that a store has."""
    return np.concatenate([np.arange(part.start, part.stop) for part in store.held(LAYOUT)])
