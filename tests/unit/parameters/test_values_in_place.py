"""Versions that take the place of the ones before, and what readers notice of it."""

from dataclasses import replace

import numpy as np
import pytest

from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace_optimizers.config import AdamW, Lamb, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.memory import Readers
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.published_memory import PublishedMemory

SIZE = 100
CONFIG = StoreConfig(
    name=StoreName("default", "run"),
    epoch=1,
    shard_index=0,
    shard_count=1,
    worker_count=1,
    consistency=Consistency.BSP,
    optimizer=Sgd(1.0),
)
DURABLE = replace(CONFIG, durability=Durability.PROCESS)
ONE_OF_TWO = replace(CONFIG, shard_count=2)
ASYNC = replace(CONFIG, consistency=Consistency.ASYNC)


def shard_of(config: StoreConfig, memory: PublishedMemory | None = None) -> Shard:
    shard = Shard(config, memory)
    layout = FlatLayout((TensorSpec("w", (SIZE * config.shard_count,)),))
    shard.initialize(layout, np.linspace(1, 2, SIZE, dtype=np.float32))
    return shard


def pushed(shard: Shard, step: int) -> Published:
    """Push a gradient, half of them of a part."""
    gradient = np.random.default_rng(step).normal(size=SIZE).astype(np.float32)
    covers = (range(10, 70),) if step % 2 and not isinstance(shard.config.optimizer, Lamb) else None
    part = gradient[10:70] if covers else gradient
    assert shard.push(Push(0, step, 1.0, part.copy(), covers=covers))
    assert shard.published
    return shard.published


@pytest.mark.parametrize("optimizer", [Sgd(0.1), Sgd(0.1, momentum=0.9), AdamW(0.1), Lamb(0.1)])
def test_values_in_place_are_those_that_new_memory_would_have(optimizer: Optimizer) -> None:
    in_place, elsewhere = (shard_of(replace(CONFIG, optimizer=optimizer)) for _ in range(2))
    for step in range(6):
        assert elsewhere.published
        assert elsewhere.published.readers.begin()  # so that it is not overwritten
        ours, theirs = pushed(in_place, step), pushed(elsewhere, step)

        assert ours.values.tobytes() == theirs.values.tobytes()


def test_a_version_takes_no_memory_of_its_own_where_nobody_needs_the_one_before() -> None:
    memory = PublishedMemory()
    shard = shard_of(CONFIG, memory)
    before = memory.size_bytes
    for step in range(3):
        pushed(shard, step)

    assert memory.size_bytes == before


@pytest.mark.parametrize("config", [DURABLE, ONE_OF_TWO, ASYNC], ids=["durable", "one of two", "async"])
def test_the_version_before_stays_where_somebody_may_need_it(config: StoreConfig) -> None:
    shard = shard_of(config)
    assert shard.published
    before = shard.published.values
    kept = before.copy()

    assert pushed(shard, 0).values is not before
    assert before.tobytes() == kept.tobytes()


def test_who_reads_a_version_has_it_as_it_was_until_the_end() -> None:
    shard = shard_of(CONFIG)
    assert shard.published
    first, values = shard.published, shard.published.values.copy()
    assert first.readers.begin()
    pushed(shard, 0)

    assert first.values.tobytes() == values.tobytes()


def test_nobody_begins_to_read_what_is_overwritten() -> None:
    shard = shard_of(CONFIG)
    assert shard.published
    first = shard.published
    newest = pushed(shard, 0)

    assert not first.readers.begin()
    assert newest.readers.begin()


def test_a_version_that_changes_nothing_has_the_readers_of_the_one_before() -> None:
    shard = shard_of(CONFIG)
    assert shard.published
    first, values = shard.published, shard.published.values.copy()
    assert first.readers.begin()
    assert shard.push(Push(0, 0, 0.0, np.zeros(SIZE, np.float32)))
    pushed(shard, 1)

    assert first.values.tobytes() == values.tobytes()


def test_readers_of_other_processes_notice_that_values_are_overwritten() -> None:
    memory = PublishedMemory()
    shard = shard_of(CONFIG, memory)
    assert shard.published
    first = memory.locate(shard.published.values)
    second = memory.locate(pushed(shard, 0).values)

    assert second.segment == first.segment
    assert second.sequence != first.sequence


def test_a_saved_state_stays_as_it_was() -> None:
    shard = shard_of(CONFIG)
    state = shard.state()
    values = state.values.clone()
    pushed(shard, 0)

    assert state.values.equal(values)


def test_readers_keep_others_from_writing_until_the_last_has_ended() -> None:
    readers = Readers()
    assert readers.begin()
    assert readers.begin()
    readers.close()
    assert not readers.shut()
    readers.close()
    assert readers.shut()
    assert not readers.begin()
