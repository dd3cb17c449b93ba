"""A checkpoint of m shards is gone on from by n: nothing of the run changes by that."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.config import Adagrad, AdamW, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.recut import recut

WORKERS = 2
OPTIMIZERS = [Sgd(0.1), Sgd(0.1, momentum=0.9), AdamW(0.01, weight_decay=0.1), Adagrad(0.1)]
ASYNC = Consistency.ASYNC


def config(index: int, count: int, optimizer: Optimizer, consistency: Consistency) -> StoreConfig:
    return StoreConfig(StoreName("default", "run"), 1, index, count, WORKERS, consistency, optimizer)


def gradient(worker: int, step: int, size: int) -> Floats:
    return np.random.default_rng([worker, step]).normal(size=size).astype(np.float32)


def held_by(shard: Shard, flat: Floats) -> Floats:
    assert shard.layout
    return np.concatenate(
        [np.empty(0, np.float32), *(flat[part.start : part.stop] for part in shard.held(shard.layout))]
    )


def begun(size: int, count: int, optimizer: Optimizer, consistency: Consistency) -> list[Shard]:
    layout = FlatLayout((TensorSpec("w", (size,)),))
    shards = [Shard(config(index, count, optimizer, consistency)) for index in range(count)]
    first = np.linspace(-1, 1, size, dtype=np.float32)
    for shard in shards:
        held = [first[part.start : part.stop] for part in shard.held(layout)]
        shard.initialize(layout, np.concatenate([np.empty(0, np.float32), *held]))
    return shards


def train(shards: Sequence[Shard], size: int, steps: range) -> None:
    for step in steps:
        for worker in range(WORKERS):
            for shard in shards:
                assert shard.push(Push(worker, step, 1.0, held_by(shard, gradient(worker, step, size))))


def whole(shards: Sequence[Shard], size: int) -> Floats:
    """Put the values of all shards together."""
    flat = np.full(size, np.nan, np.float32)
    for shard in shards:
        assert shard.layout
        assert shard.published
        place = 0
        for part in shard.held(shard.layout):
            flat[part.start : part.stop] = shard.published.values[place : place + len(part)]
            place += len(part)
    return flat


def restored(
    states: Sequence[ShardState], count: int, optimizer: Optimizer, consistency: Consistency
) -> list[Shard]:
    shards = []
    for index in range(count):
        shard = Shard(replace(config(index, count, optimizer, consistency), epoch=2))
        shard.restore(recut(iter(states), shard.config))
        shards.append(shard)
    return shards


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 200) | st.just(5000),
    saved=st.integers(1, 5),
    count=st.integers(1, 5),
    steps=st.integers(0, 3),
    optimizer=st.sampled_from(OPTIMIZERS),
    consistency=st.sampled_from([Consistency.BSP, ASYNC]),
)
def test_a_run_goes_on_with_any_number_of_shards_to_the_same_bits(
    size: int, saved: int, count: int, steps: int, optimizer: Optimizer, consistency: Consistency
) -> None:
    before = begun(size, saved, optimizer, consistency)
    train(before, size, range(steps))

    after = restored([shard.state() for shard in before], count, optimizer, consistency)

    assert np.array_equal(whole(after, size), whole(before, size))
    assert {shard.published and shard.published.version for shard in after} == {
        before[0].published and before[0].published.version
    }
    train(before, size, range(steps, steps + 2))
    train(after, size, range(steps, steps + 2))
    assert np.array_equal(whole(after, size), whole(before, size))


def test_a_push_that_was_taken_before_is_known_by_every_new_shard() -> None:
    before = begun(100, 2, Sgd(0.1), ASYNC)
    train(before, 100, range(3))

    for shard in restored([shard.state() for shard in before], 3, Sgd(0.1), ASYNC):
        assert shard.is_duplicate(worker=1, step=2)
        assert not shard.is_duplicate(worker=1, step=3)


def test_as_many_shards_keep_the_ranges_they_had_and_each_needs_its_own_snapshot_alone() -> None:
    shards = begun(9000, 2, Sgd(0.1, momentum=0.9), ASYNC)
    train(shards, 9000, range(1))
    moved = shards[0].state().map.changed(add=[2], remove=[0])
    own = replace(
        shards[0].state(), shard_index=2, map=moved, values=shards[0].state().values[: moved.length(2)]
    )

    state = recut([own], config(1, 2, Sgd(0.1, momentum=0.9), ASYNC))

    assert (state.shard_index, state.map.epoch) == (1, 1)
    assert state.map.held(1) == moved.held(2)


def test_no_more_snapshots_are_read_than_a_shard_needs() -> None:
    states = [shard.state() for shard in begun(100, 4, Sgd(0.1), ASYNC)]
    read = iter(states)

    recut(read, config(0, 2, Sgd(0.1), ASYNC))

    assert list(read) == states[2:]


def test_snapshots_that_do_not_make_a_shard_are_refused() -> None:
    first, second = (shard.state() for shard in begun(100, 2, Sgd(0.1), ASYNC))
    one = config(0, 1, Sgd(0.1), ASYNC)

    with pytest.raises(InvalidArgument, match="lack values"):
        recut([first, first], one)
    with pytest.raises(InvalidArgument, match="not of one checkpoint"):
        recut([first, replace(second, map=ShardMap.first(100, 4), shard_index=1)], one)
    with pytest.raises(InvalidArgument, match="have optimizer sgd"):
        recut([first, second], replace(one, optimizer=Adagrad(0.1)))
    with pytest.raises(FailedPrecondition, match="not at one point"):
        recut([first, replace(second, version=7)], one)
