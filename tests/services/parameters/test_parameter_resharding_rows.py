"""Shards that join and leave a store with tables while workers push rows and dense values: every gradient of a row counts exactly once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, Internal, QuotaExceeded
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2
from headrace_parameters.core.rows.push import RowPush
from tests.services.parameters.parameter_server import NAME, ParameterServer, create_request, parameter_server
from tests.services.parameters.resharding_tables import COUNTED, PLACES, WORDS, Worker, keys_of, workers_of
from tests.services.parameters.resharding_world import SIZE, adamw, create, gradient, reshard, start
from tests.services.parameters.test_parameter_resharding_faults import DisturbedPeers, fail

STEPS = 24


@pytest.fixture
def three() -> Iterator[list[ParameterServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(parameter_server(max_bytes=1 << 24)) for _ in range(3)]


def train(worker: Worker, number: int, at: Callable[[int], None] = lambda _: None) -> Floats:
    """Push gradients that depend on the rows pulled; return the last dense values."""
    store, tables = worker
    values = start()
    for step in range(STEPS):
        at(step)
        for table in (WORDS, PLACES):
            keys = keys_of(table.name, number, step)
            rows = tables.pull_rows(table.name, keys, step=step).values
            tables.push_rows(table.name, step, keys, rows * 0.1 + np.float32(number), samples=1 + number)
        values = store.push_pull(step, gradient(number, step), samples=1 + number).values
    return values


def run_through(
    workers: list[Worker], changes: dict[int, Callable[[], object]]
) -> tuple[Floats, list[tuple[Keys, Floats]]]:
    """Train, and make each change when its step has begun; return the dense values and all rows."""
    begun = {step: threading.Event() for step in range(STEPS)}
    with ThreadPoolExecutor(len(workers)) as threads:
        runs = [
            threads.submit(train, worker, number, lambda step: begun[step].set())
            for number, worker in enumerate(workers)
        ]
        for step, change in changes.items():
            begun[step].wait(60)
            change()
    values = [run.result() for run in runs]
    assert all(np.array_equal(each, values[0]) for each in values)
    return values[0], [workers[0][1].scan_rows(table.name) for table in (WORDS, PLACES)]


def untouched(optimizer: stores_pb2.Optimizer) -> tuple[Floats, list[tuple[Keys, Floats]]]:
    with parameter_server(max_bytes=1 << 24) as server:
        create([server], optimizer, worker_count=2)
        with workers_of([server], 2, [WORDS, PLACES], start()) as workers:
            return run_through(workers, {})


@pytest.mark.parametrize(
    ("shared_memory", "clip"), [(True, 0.0), (False, 0.0), (True, 5.0)], ids=["memory", "message", "clipped"]
)
def test_a_run_with_tables_through_joins_and_leaves_ends_where_an_untouched_one_does(
    three: list[ParameterServer], shared_memory: bool, clip: float
) -> None:
    create(three[:1], adamw(clip), worker_count=2)
    with workers_of(three[:1], 2, [WORDS, PLACES], start(), shared_memory=shared_memory) as workers:
        values, rows = run_through(
            workers,
            {
                4: lambda: reshard(three[0], shards=three[:1], add=three[1:]),
                10: lambda: reshard(three[1], shards=three, remove=[three[0]], map_epoch=2),
                15: lambda: reshard(
                    three[2], shards=three[1:], add=[three[0]], remove=[three[1]], map_epoch=3
                ),
            },
        )
        held = {server: server.stores.get(NAME) for server in three}

    expected, untouched_rows = untouched(adamw(clip))
    tolerance = 1e-6 if clip else 0
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    for (keys, found), (known, wanted) in zip(rows, untouched_rows, strict=True):
        assert np.array_equal(keys, known)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
    counted = [[table.rows for table in store.tables] for store in held.values()]
    assert counted[1] in ([], [0, 0]), "the shard that has left keeps none"
    assert np.array_equal(np.sum([counted[0], counted[2]], axis=0), [keys.size for keys, _ in rows])


@pytest.mark.parametrize(
    ("consistency", "staleness_bound"), [(stores_pb2.CONSISTENCY_SSP, 2), (stores_pb2.CONSISTENCY_ASYNC, 0)]
)
def test_every_gradient_of_a_row_is_applied_once_also_where_each_takes_effect_alone(
    three: list[ParameterServer], consistency: int, staleness_bound: int
) -> None:
    """Each row is exact: sums of ones."""
    create(three[:2], worker_count=2, consistency=consistency, staleness_bound=staleness_bound)
    begun = {step: threading.Event() for step in range(STEPS)}
    with workers_of(three[:2], 2, [COUNTED], np.zeros(SIZE, np.float32)) as workers:

        def run(number: int) -> None:
            store, tables = workers[number]
            for step in range(STEPS):
                begun[step].set()
                keys = keys_of("counted", number, step)
                tables.push_rows("counted", step, keys, np.ones((keys.size, 2), np.float32), samples=1)
                store.push_pull(step, np.ones(SIZE, np.float32), samples=1)

        with ThreadPoolExecutor(2) as threads:
            runs = [threads.submit(run, number) for number in range(2)]
            begun[5].wait(60)
            reshard(three[0], shards=three[:2], add=three[2:])
            begun[15].wait(60)
            reshard(three[2], shards=three, remove=three[:1], map_epoch=2)
        for done in runs:
            done.result()
        found, rows = workers[0][1].scan_rows("counted")

    pushed = np.concatenate(
        [keys_of("counted", number, step) for number in range(2) for step in range(STEPS)]
    )
    keys, times = np.unique(pushed, return_counts=True)
    assert np.array_equal(found, keys)
    np.testing.assert_allclose(rows, np.repeat(-times[:, None], 2, axis=1), rtol=0, atol=1e-4)


def ready(servers: list[ParameterServer], **settings: Any) -> Any:
    create(servers, learning_rate=1, **settings)
    return workers_of(servers, settings.get("worker_count", 1), [COUNTED], start())


def push_ones(worker: Worker, step: int) -> None:
    worker[1].push_rows("counted", step, range(50), np.ones((50, 2), np.float32), samples=1)


def rows_are(worker: Worker, value: float, step: int) -> None:
    rows = worker[1].pull_rows("counted", range(50), step=step).values
    np.testing.assert_allclose(rows, value, rtol=0, atol=1e-6)


def test_gradients_of_rows_that_every_shard_has_move_along_and_are_known_when_they_come_again(
    three: list[ParameterServer],
) -> None:
    with ready(three[:2], worker_count=2) as (early, late):
        push_ones(early, 0)

        reshard(three[0], shards=three[:2], add=three[2:])

        push_ones(early, 0)
        push_ones(late, 0)
        rows_are(late, -1, step=1)


def test_gradients_of_rows_that_only_one_shard_has_are_sent_again(three: list[ParameterServer]) -> None:
    with ready(three[:2], worker_count=2) as (half, other):
        live = three[0].table.all()[0]
        keys = np.arange(50, dtype=np.uint64)
        assert live.map
        mine = keys[live.map.shard_of(keys) == 0]
        push = RowPush(0, 0, 1.0, mine, np.ones((mine.size, 2), np.float32))
        assert live.push_rows(live.tables["counted"], push)

        reshard(three[0], shards=three[:2], add=three[2:])

        push_ones(half, 0)
        push_ones(other, 0)
        rows_are(other, -1, step=1)


def test_a_shard_that_was_made_without_the_tables_has_them_when_it_has_joined(
    three: list[ParameterServer],
) -> None:
    """Whoever makes a store's shards, as a scheduler does, need not know what tables its workers have declared."""
    with ready(three[:2]) as (worker,):
        push_ones(worker, 0)
        worker[0].push_pull(0, gradient(0, 0), samples=1)
        request = create_request(shard_index=2, shard_count=3, learning_rate=1)
        request.joins = True
        three[2].stores.create(request)

        reshard(three[0], shards=three[:2], add=three[2:])

        rows_are(worker, -1, step=1)
        (table,) = three[2].stores.get(NAME).tables
        assert (table.name, table.version, table.rows > 0) == ("counted", 1, True)


def test_a_worker_that_comes_after_the_change_finds_rows_and_shards_from_any_address(
    three: list[ParameterServer],
) -> None:
    with ready(three[:2]) as (worker,):
        push_ones(worker, 0)
        worker[0].push_pull(0, gradient(0, 0), samples=1)
        reshard(three[0], shards=three[:2], add=three[2:])

        with ShardedTables([three[1].channel], NAME, epoch=1, worker=0) as late:
            assert late.scan_rows("counted")[0].size == 50
        with ShardedTables([three[2].channel], NAME, epoch=0) as reader:
            np.testing.assert_allclose(reader.pull_rows("counted", range(50)).values, -1, rtol=0, atol=1e-6)


def test_rows_that_are_ahead_of_the_dense_values_wait_for_them(three: list[ParameterServer]) -> None:
    """The table has the step, the dense values have not: they come to one point, while the worker goes on."""
    with ready(three[:2]) as (worker,), ThreadPoolExecutor(1) as threads:
        push_ones(worker, 0)
        moving = threads.submit(reshard, three[0], shards=three[:2], add=three[2:])
        worker[0].push_pull(0, gradient(0, 0), samples=1)
        assert moving.result().shard_map.epoch == 2

        rows_are(worker, -1, step=1)
        assert worker[0].pull().version == 1


def test_a_table_that_nobody_brings_to_the_dense_values_keeps_the_old_map(
    three: list[ParameterServer],
) -> None:
    with ready(three[:2]) as (worker,):
        push_ones(worker, 0)

        with pytest.raises(DeadlineExceeded):
            reshard(three[0], shards=three[:2], add=three[2:], timeout_s=2)

        assert worker[0].push_pull(0, gradient(0, 0), samples=1).version == 1
        rows_are(worker, -1, step=1)


def test_a_process_without_room_for_rows_keeps_the_old_map_in_force(three: list[ParameterServer]) -> None:
    with ready(three[:2]) as (worker,), parameter_server(max_bytes=100_000) as small:
        push_ones(worker, 0)
        worker[0].push_pull(0, gradient(0, 0), samples=1)

        with pytest.raises(QuotaExceeded):
            reshard(three[0], shards=three[:2], add=[small])

        push_ones(worker, 1)
        worker[0].push_pull(1, gradient(0, 1), samples=1)
        rows_are(worker, -2, step=2)


@pytest.mark.parametrize(
    ("point", "epoch"),
    [(("settle", "after"), 1), (("stage", "after"), 1), (("commit", "before"), 2)],
    ids=["settle", "stage", "commit"],
)
def test_rows_are_where_the_map_that_holds_says_when_a_coordinator_fails(
    point: tuple[str, str], epoch: int
) -> None:
    with ExitStack() as stack:
        peers = DisturbedPeers(point, fail)
        servers = [stack.enter_context(parameter_server(peers=peers, max_bytes=1 << 24)) for _ in range(3)]
        with ready(servers[:2]) as (worker,):
            push_ones(worker, 0)
            worker[0].push_pull(0, gradient(0, 0), samples=1)

            if epoch == 1:
                with pytest.raises(Internal, match="stumbled"):
                    reshard(servers[0], shards=servers[:2], add=servers[2:])
            else:
                reshard(servers[0], shards=servers[:2], add=servers[2:])

            push_ones(worker, 1)
            worker[0].push_pull(1, gradient(0, 1), samples=1)
            rows_are(worker, -2, step=2)
            assert servers[0].stores.get(NAME).shard_map.epoch == epoch
            assert worker[1].scan_rows("counted")[0].size == 50
