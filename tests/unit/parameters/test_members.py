"""Workers that come and go: what a shard lets them do."""

import numpy as np
import pytest

from headrace.errors import AlreadyExists, InvalidArgument, MembersChanged, OutOfRange, Unavailable
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace_optimizers.config import Sgd
from headrace_optimizers.schedule import Decay, Schedule
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.exchange import of_version
from headrace_parameters.core.members import MembersChange, first_members
from headrace_parameters.core.need import Need
from headrace_parameters.core.rows.turns import Turns
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState


def shard_of(
    consistency: Consistency = Consistency.BSP, workers: int = 3, shards: int = 1, **rules: object
) -> Shard:
    """Return one that holds three values."""
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=0,
        shard_count=shards,
        worker_count=workers,
        consistency=consistency,
        optimizer=Sgd(1.0),
        **rules,  # type: ignore[arg-type]  # each test's
    )
    shard = Shard(config)
    shard.initialize(FlatLayout((TensorSpec("a", (3 * shards,)),)), np.zeros(3, np.float32))
    return shard


def gradient(worker: int, step: int, value: float = 1.0, generation: int = 0) -> Push:
    return Push(worker, step, 1.0, np.full(3, value, np.float32), generation)


def test_a_step_is_computed_again_by_those_who_stay() -> None:
    shard = shard_of()
    shard.push(gradient(0, 0, 100.0))
    shard.push(gradient(1, 0, 100.0))

    shard.change_members(MembersChange(1, (0, 1)))

    assert shard.missing_workers(Need()) == [0, 1]
    assert shard.push(gradient(0, 0, 1.0, generation=1))
    assert shard.push(gradient(1, 0, 3.0, generation=1))
    assert shard.published is not None
    assert shard.published.version == 1
    assert shard.published.values.tolist() == [-2.0] * 3


def test_a_late_push_of_a_worker_that_was_left_out_is_refused_and_changes_nothing() -> None:
    shard = shard_of()
    shard.change_members(MembersChange(1, (0, 1)))

    with pytest.raises(MembersChanged, match="or stop if you are none of them") as refusal:
        shard.push(gradient(2, 0))
    with pytest.raises(InvalidArgument, match="worker is 2; this store has workers 0 to 1"):
        shard.push(gradient(2, 0, generation=1))

    assert refusal.value.metadata == {"generation": "1", "workers": "0,1"}
    assert shard.missing_workers(Need()) == [0, 1]


def test_a_shard_that_has_not_heard_of_a_generation_asks_its_workers_to_try_again() -> None:
    shard = shard_of()
    with pytest.raises(Unavailable):
        shard.push(gradient(0, 0, generation=1))


def test_the_same_change_may_come_twice_but_an_older_or_another_one_is_refused() -> None:
    shard = shard_of()
    shard.change_members(MembersChange(2, (0, 3)))
    shard.push(gradient(3, 0, generation=2))
    shard.change_members(MembersChange(2, (0, 3)))
    assert shard.missing_workers(Need()) == [0], "what came after the change is kept"
    with pytest.raises(MembersChanged):
        shard.change_members(MembersChange(1, (0, 1, 2)))
    with pytest.raises(AlreadyExists):
        shard.change_members(MembersChange(2, (0, 1)))
    for workers in ((), (1, 0), (0, 0)):
        with pytest.raises(InvalidArgument):
            shard.change_members(MembersChange(3, workers))


def test_the_version_before_is_there_for_whoever_must_compute_its_step_again() -> None:
    shard = shard_of(workers=1, shards=2)
    for step in range(3):
        shard.push(gradient(0, step))
    assert of_version(3, shard.published, shard.former).values.tolist() == [-3.0] * 3
    assert of_version(2, shard.published, shard.former).values.tolist() == [-2.0] * 3
    for version in (1, 4):
        with pytest.raises(OutOfRange):
            of_version(version, shard.published, shard.former)


def test_who_leaves_bounds_nobody_and_who_joins_begins_with_the_slowest() -> None:
    clocks = Clocks((0, 1, 2), {0: 7, 1: 2, 2: 5})
    among = clocks.among((0, 2, 5))
    assert [among.of(worker) for worker in (0, 2, 5)] == [8, 6, 6]
    assert (among.slowest, among.furthest) == (6, 8)
    assert clocks.among((3, 4)).slowest == clocks.among((3, 4)).furthest == 3


def test_a_worker_that_leaves_lets_the_others_of_a_bounded_run_go_on() -> None:
    shard = shard_of(Consistency.SSP, workers=2, staleness_bound=1)
    shard.push(gradient(0, 0))
    shard.push(gradient(0, 1))
    with pytest.raises(OutOfRange):
        shard.push(gradient(0, 2))
    shard.change_members(MembersChange(1, (0,)))
    assert shard.published is not None
    assert shard.need_for(3).met_by(shard.published.version, shard.published.slowest)
    assert shard.push(gradient(0, 2, generation=1))


def test_the_schedule_counts_steps_of_all_members_however_many_they_are() -> None:
    """Where each push is a version, a step is as many of them as there were workers at that time."""
    members = first_members(4)
    assert [members.steps_done(version) for version in (0, 3, 4, 8)] == [0, 0, 1, 2]
    fewer = members.followed_by(1, (0, 1), version=8)
    assert [fewer.steps_done(version) for version in (8, 9, 10, 14)] == [2, 2, 3, 5]

    decay = Schedule(decay=Decay.LINEAR, decay_steps=4)
    shard = shard_of(Consistency.ASYNC, workers=2, schedule=decay)
    shard.push(gradient(0, 0))
    shard.push(gradient(1, 0))
    shard.change_members(MembersChange(1, (1,)))
    for step, value in ((1, -2.75), (2, -3.25), (3, -3.5)):
        shard.push(gradient(1, step, generation=1))
        assert shard.published is not None
        assert shard.published.values[0] == pytest.approx(value)


def test_a_snapshot_tells_whom_it_is_of_but_gives_another_attempt_its_own_members() -> None:
    shard = shard_of(Consistency.SSP, staleness_bound=2)
    for worker in (0, 1):
        shard.push(gradient(worker, 0))
    shard.change_members(MembersChange(1, (0, 1, 7)))
    tensors, metadata = shard.state().encode()
    state = ShardState.decode(tensors, metadata)

    same = shard_of(Consistency.SSP, staleness_bound=2)
    same.restore(state)
    assert (same.members.generation, same.members.workers) == (1, (0, 1, 7))

    shard.change_members(MembersChange(5, (0, 1)))
    shard.restore(state)
    assert shard.members.generation == 5, "who was left out does not come back"

    anew = Shard(StoreConfig(StoreName("default", "run"), 2, 0, 1, 4, Consistency.SSP, Sgd(1.0)))
    anew.restore(state)
    assert (anew.members.generation, anew.members.workers) == (0, (0, 1, 2, 3))
    assert anew.published is not None
    assert anew.published.slowest == anew.published.furthest == 1


def test_a_table_follows_the_members_as_the_dense_tensors_do() -> None:
    turns: Turns[str] = Turns(shard_of().config)
    turns.keep(0, "dropped")
    turns.change_members(1, (0, 4))
    assert turns.missing_workers(Need()) == [0, 4]
    with pytest.raises(MembersChanged):
        turns.is_duplicate(1, 0)
    turns.keep(0, "kept")
    assert turns.effective(4, "last") == {0: "kept", 4: "last"}
    turns.advance({0: 0, 4: 0})
    assert (turns.progress.version, dict(turns.last_steps)) == (1, {0: 0, 4: 0})
