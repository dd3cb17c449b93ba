"""Shards that join and leave a store while workers go on."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ShardMapChanged,
    Unavailable,
)
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import stores_pb2
from headrace_parameters import save_point
from headrace_parameters.core.exchange import Push
from headrace_parameters.move import Move
from tests.services.parameters.parameter_server import NAME, ParameterServer, parameter_server
from tests.services.parameters.resharding_world import (
    LAYOUT,
    SIZE,
    adamw,
    create,
    gradient,
    reshard,
    reshard_when_free,
    start,
    worker_of,
)

STEPS = 30


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[ParameterServer]]:
    """Three processes."""
    with ExitStack() as stack:
        yield [stack.enter_context(parameter_server(folder=tmp_path / str(index))) for index in range(3)]


def train(
    store: ShardedStore, worker: int, steps: range, at: Callable[[int], None] = lambda _: None
) -> Floats:
    """Push and pull, and say each step before it begins; return the last values."""
    values = start()
    for step in steps:
        at(step)
        values = store.push_pull(step, gradient(worker, step), samples=1 + worker).values
    return values


def untouched(optimizer: stores_pb2.Optimizer, workers: int) -> Floats:
    """Train without any resharding."""
    with parameter_server() as server, ExitStack() as stack:
        create([server], optimizer, worker_count=workers)
        stores = [stack.enter_context(worker_of([server], worker)) for worker in range(workers)]
        for store in stores:
            store.initialize(LAYOUT, start())
        with ThreadPoolExecutor(workers) as threads:
            runs = [threads.submit(train, store, worker, range(STEPS)) for worker, store in enumerate(stores)]
        return runs[0].result()


@pytest.mark.parametrize(
    ("shared_memory", "durability"),
    [
        (True, stores_pb2.DURABILITY_MEMORY),
        (False, stores_pb2.DURABILITY_MEMORY),
        (True, stores_pb2.DURABILITY_PROCESS),
        (False, stores_pb2.DURABILITY_DISK),
    ],
)
def test_a_run_through_joins_and_leaves_ends_at_the_same_bits(
    three: list[ParameterServer], shared_memory: bool, durability: stores_pb2.Durability.ValueType
) -> None:
    create(three[:1], adamw(), worker_count=2, durability=durability)
    with ExitStack() as stack:
        stores = [
            stack.enter_context(worker_of(three[:1], worker, shared_memory=shared_memory))
            for worker in range(2)
        ]
        for store in stores:
            store.initialize(LAYOUT, start())
        begun = {step: threading.Event() for step in range(STEPS)}
        with ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(train, store, worker, range(STEPS), lambda step: begun[step].set())
                for worker, store in enumerate(stores)
            ]
            begun[5].wait(20)
            assert reshard(three[0], shards=three[:1], add=three[1:]).shard_map.epoch == 2
            begun[15].wait(20)
            reshard(three[1], shards=three, remove=[three[0]], map_epoch=2)
            begun[20].wait(20)
            last = reshard(three[2], shards=three[1:], add=[three[0]], remove=[three[1]], map_epoch=3)
        results = [run.result() for run in runs]

    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], untouched(adamw(), workers=2))
    assert [len(shard.ranges) > 0 for shard in last.shard_map.shards] == [True, True]
    assert [server.stores.get(NAME).initialized for server in three] == [True, False, True]


def test_clipped_steps_go_on_with_the_norm_over_the_new_shards(three: list[ParameterServer]) -> None:
    create(three[:2], adamw(clip=5), worker_count=2)
    with ExitStack() as stack:
        stores = [stack.enter_context(worker_of(three[:2], worker)) for worker in range(2)]
        for store in stores:
            store.initialize(LAYOUT, start())
        begun = {step: threading.Event() for step in range(STEPS)}
        with ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(train, store, worker, range(STEPS), lambda step: begun[step].set())
                for worker, store in enumerate(stores)
            ]
            begun[5].wait(20)
            reshard(three[0], shards=three[:2], add=three[2:])
            begun[15].wait(20)
            reshard(three[1], shards=three, remove=[three[0], three[2]], map_epoch=2)
        found = runs[0].result()

    np.testing.assert_allclose(found, untouched(adamw(clip=5), workers=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("consistency", "staleness_bound"), [(stores_pb2.CONSISTENCY_SSP, 2), (stores_pb2.CONSISTENCY_ASYNC, 0)]
)
def test_every_gradient_is_applied_once_also_where_each_takes_effect_alone(
    three: list[ParameterServer], consistency: int, staleness_bound: int
) -> None:
    """Each value is exact: sums of ones."""
    create(
        three[:2], worker_count=2, consistency=consistency, staleness_bound=staleness_bound, learning_rate=1
    )
    ones = np.ones(SIZE, np.float32)
    with ExitStack() as stack:
        stores = [stack.enter_context(worker_of(three[:2], worker)) for worker in range(2)]
        for store in stores:
            store.initialize(LAYOUT, np.zeros(SIZE, np.float32))
        begun = {step: threading.Event() for step in range(STEPS)}

        def run(store: ShardedStore) -> None:
            for step in range(STEPS):
                begun[step].set()
                store.push_pull(step, ones, samples=1)

        with ThreadPoolExecutor(2) as threads:
            runs = [threads.submit(run, store) for store in stores]
            begun[5].wait(20)
            reshard(three[0], shards=three[:2], add=three[2:])
            begun[15].wait(20)
            reshard(three[2], shards=three, remove=three[:1], map_epoch=2)
        for done in runs:
            done.result()
        values = stores[0].pull().values

    assert values.tolist() == (-2 * STEPS * ones).tolist()


def test_a_gradient_that_every_shard_has_is_not_asked_for_again(three: list[ParameterServer]) -> None:
    """It was answered, and so the worker may have forgotten it."""
    create(three[:2], worker_count=2, learning_rate=1)
    with worker_of(three[:2], 0) as early, worker_of(three[:2], 1) as late:
        early.initialize(LAYOUT, start())
        early.push(0, gradient(0, 0), samples=1)

        reshard(three[0], shards=three[:2], add=three[2:])
        pulled = late.push_pull(0, gradient(1, 0), samples=1)

    expected = start() - (gradient(0, 0) * 0.5 + gradient(1, 0) * 0.5)
    np.testing.assert_allclose(pulled.values, expected, rtol=0, atol=1e-6)
    assert pulled.version == 1


def test_a_gradient_that_only_one_shard_has_is_sent_again(three: list[ParameterServer]) -> None:
    create(three[:2], worker_count=2, learning_rate=1)
    with worker_of(three[:2], 0) as half, worker_of(three[:2], 1) as other, worker_of(three[:1], 0) as one:
        half.initialize(LAYOUT, start())
        with pytest.raises(FailedPrecondition):
            one.layout  # noqa: B018 - it looks, and finds that a shard is missing
        live = three[0].table.all()[0]
        assert live.push(Push(0, 0, 1.0, gradient(0, 0)[: SIZE // 2].copy()))

        reshard(three[0], shards=three[:2], add=three[2:])
        half.push(0, gradient(0, 0), samples=1)
        pulled = other.push_pull(0, gradient(1, 0), samples=1)

    expected = start() - (gradient(0, 0) * 0.5 + gradient(1, 0) * 0.5)
    np.testing.assert_allclose(pulled.values, expected, rtol=0, atol=1e-6)


def test_a_repeated_request_is_answered_with_the_map_it_made(three: list[ParameterServer]) -> None:
    create(three[:1])
    with worker_of(three[:1]) as store:
        store.initialize(LAYOUT, start())

    first = reshard(three[0], shards=three[:1], add=three[1:])

    assert reshard(three[0], shards=three[:1], add=three[1:]).shard_map == first.shard_map
    with pytest.raises(ShardMapChanged):
        reshard(three[0], shards=three[:1], add=three[1:2])


def test_what_cannot_be_is_refused_and_changes_nothing(three: list[ParameterServer]) -> None:
    create(three[:2])
    with pytest.raises(FailedPrecondition, match="has no values here"):
        reshard(three[0], shards=three[:2], add=three[2:])
    with worker_of(three[:2]) as store:
        store.initialize(LAYOUT, start())
        with pytest.raises(InvalidArgument, match="give the addresses of all of them"):
            reshard(three[0], shards=three[:1], add=three[2:])
        with pytest.raises(InvalidArgument, match="`remove` must be among `shards`"):
            reshard(three[0], shards=three[:2], remove=three[2:])
        with pytest.raises(InvalidArgument, match="no shard would be left"):
            reshard(three[0], shards=three[:2], remove=three[:2])

        assert store.push_pull(0, gradient(0, 0), samples=1).version == 1
        assert [server.stores.get(NAME).shard_map.epoch for server in three[:2]] == [1, 1]


def test_a_process_without_room_keeps_the_old_map_in_force(three: list[ParameterServer]) -> None:
    create(three[:2], worker_count=1, learning_rate=1)
    with worker_of(three[:2]) as store, parameter_server(max_bytes=100) as small:
        store.initialize(LAYOUT, start())

        with pytest.raises(Exception, match=r"needs 12\d+ bytes"):
            reshard(three[0], shards=three[:2], add=[small])

        assert store.push_pull(0, gradient(0, 0), samples=1).version == 1


def test_workers_that_do_not_bring_the_shards_together_in_time_keep_the_old_map(
    three: list[ParameterServer],
) -> None:
    """One shard has completed a step whose gradient the other never got."""
    create(three[:2], learning_rate=1)
    with worker_of(three[:2]) as store:
        store.initialize(LAYOUT, start())
        three[0].table.all()[0].push(Push(0, 0, 1.0, gradient(0, 0)[: SIZE // 2].copy()))

        with pytest.raises(DeadlineExceeded):
            reshard(three[0], shards=three[:2], add=three[2:], timeout_s=2)

        assert store.push_pull(0, gradient(0, 0), samples=1).version == 1
        assert np.array_equal(store.pull().values, start() - gradient(0, 0))
        reshard_when_free(three[0], shards=three[:2], add=three[2:])
        assert np.array_equal(store.pull().values, start() - gradient(0, 0))


def test_a_store_whose_values_move_already_is_left_alone(three: list[ParameterServer]) -> None:
    create(three[:1], worker_count=1)
    with worker_of(three[:1]) as store:
        store.initialize(LAYOUT, start())
        live = three[0].table.all()[0]
        assert live.map
        Move(live, live.map.changed(add=[1]))

        with pytest.raises(Aborted, match="are moving already"):
            reshard(three[0], shards=three[:1], add=three[1:2])


def test_nothing_is_saved_while_values_move(three: list[ParameterServer]) -> None:
    create(three[:1])
    with worker_of(three[:1]) as store:
        store.initialize(LAYOUT, start())
        live = three[0].table.all()[0]
        assert live.map
        Move(live, live.map.changed(add=[1]))

        with pytest.raises(Unavailable, match="move between its shards"):
            save_point.hold(live)
        with pytest.raises(Unavailable, match="move between its shards"):
            save_point.saved(live, {0: 0})
