"""Workers find the shards of a store that has others by now, whatever they were told."""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from headrace.errors import NotFound, ShardMapChanged
from headrace.parameters.operation import Operation
from headrace.parameters.wire import Piece
from tests.services.parameters.parameter_server import NAME, ParameterServer, parameter_server
from tests.services.parameters.resharding_world import LAYOUT, create, gradient, reshard, start, worker_of


@pytest.fixture
def three() -> Iterator[list[ParameterServer]]:
    """Three processes."""
    with ExitStack() as stack:
        yield [stack.enter_context(parameter_server()) for _ in range(3)]


def test_a_worker_that_comes_late_finds_the_shards_by_any_address(three: list[ParameterServer]) -> None:
    create(three[:2], learning_rate=1)
    with worker_of(three[:2]) as store:
        store.initialize(LAYOUT, start())
        reshard(three[1], shards=three[:2], add=three[2:], remove=three[:1])

    with worker_of(three[:2]) as late:
        assert late.initialize(LAYOUT, start()) == 0
        assert np.array_equal(late.pull().values, start())
        assert np.array_equal(late.push_pull(0, gradient(0, 0), samples=1).values, start() - gradient(0, 0))


def test_a_worker_finds_the_others_also_when_nothing_is_left_of_a_shard_that_has_left(
    three: list[ParameterServer],
) -> None:
    """It computed meanwhile, or was started with the addresses of before."""
    create(three[:2], learning_rate=1)
    with worker_of(three[:2]) as store, worker_of(three[:2]) as late:
        store.initialize(LAYOUT, start())
        reshard(three[0], shards=three[:2], add=three[2:], remove=three[1:2])
        three[1].stores.delete(NAME, epoch=1)

        moved = store.push_pull(0, gradient(0, 0), samples=1)

        assert np.array_equal(moved.values, start() - gradient(0, 0))
        assert late.initialize(LAYOUT, start()) == 1
        assert np.array_equal(late.pull().values, moved.values)
        three[2].stores.delete(NAME, epoch=1)
        with pytest.raises(NotFound):
            store.pull()


def test_a_push_by_the_old_map_is_refused_and_says_which_one_holds(three: list[ParameterServer]) -> None:
    create(three[:1], learning_rate=1)
    with worker_of(three[:1]) as store:
        store.initialize(LAYOUT, start())
        shard = store._known.clients[0]
        store.pull()
        reshard(three[0], shards=three[:1], add=three[1:])
        with pytest.raises(ShardMapChanged) as refused:
            shard.push(Operation(5), 0, [Piece(0, gradient(0, 0))], 1.0)

        assert refused.value.metadata == {"map_epoch": "2"}
        assert np.array_equal(store.pull().values, start())
