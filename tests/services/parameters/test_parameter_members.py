"""Workers come and go, by real clients of two shards: the step is computed again, zombies have no effect, restarts forget nothing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, InvalidArgument, MembersChanged, StaleEpoch
from headrace.parameters.client import Place, ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.recoding import parameters_stub
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.wire import Piece, carry
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)


def joint_store(
    servers: list[ParameterServer], connect: Connect, workers: int, **request: object
) -> list[ShardedStore]:
    for index, server in enumerate(servers):
        server.stores.create(
            create_request(
                shard_index=index,
                shard_count=len(servers),
                worker_count=workers,
                learning_rate=1,
                **request,  # type: ignore[arg-type]  # named by each test
            )
        )
    stores = [connect(*servers, worker=worker) for worker in range(workers)]
    for store in stores:
        store.initialize(LAYOUT, flat(0))
        store.take_place()
    return stores


def set_members(servers: list[ParameterServer], generation: int, *workers: int) -> None:
    for server in servers:
        store = server.stores.set_members(NAME, workers, epoch=1, generation=generation)
        assert (store.generation, tuple(store.workers)) == (generation, workers)


def await_pushes(server: ParameterServer, count: int) -> None:
    """Return when the shard has taken so many gradients."""
    while server.counted("pushes_total") < count:
        threading.Event().wait(0.01)


def push_to_one_shard(server: ParameterServer, worker: int, step: int, gradient: Floats) -> None:
    """As a worker does that dies before it has reached the others."""
    held = server.stores.get(NAME).length
    header = parameters_pb2.PushHeader(worker=worker, epoch=1, step=step, samples=1)
    first = parameters_pb2.PushRequest(store=NAME, header=header)
    parameters_stub(server.channel).Push(carry(first, [Piece(0, gradient[:held])]), timeout=10)


def test_a_waiting_worker_is_told_at_once_that_another_has_left(
    servers: list[ParameterServer], connect: Connect
) -> None:
    store, _ = joint_store(servers, connect, workers=2)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(store.push_pull, 0, flat(9), 1)
        for server in servers:
            await_pushes(server, 1)
        set_members(servers, 1, 0)
        with pytest.raises(MembersChanged):
            waiting.result(timeout=10)

    assert store.take_place() == Place(index=0, count=1, generation=1, step=0)
    assert np.array_equal(store.push_pull(0, flat(1), 1).values, flat(-1))


def test_a_step_that_one_shard_has_done_is_computed_again_with_the_values_before_it(
    servers: list[ParameterServer], connect: Connect
) -> None:
    store, _ = joint_store(servers, connect, workers=2)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(store.push_pull, 0, flat(1), 1)
        push_to_one_shard(servers[0], worker=1, step=0, gradient=flat(3))
        await_pushes(servers[0], 2)
        await_pushes(servers[1], 1)
        set_members(servers, 1, 0, 2)
        with pytest.raises(MembersChanged):
            waiting.result(timeout=10)
    late = connect(*servers, worker=2)
    first, second = flat(7), flat(7)

    assert store.take_place(first) == Place(0, 2, generation=1, step=0)
    assert late.take_place(second) == Place(1, 2, generation=1, step=0)
    assert np.array_equal(first, flat(0))
    assert np.array_equal(second, flat(0))
    with ThreadPoolExecutor(2) as threads:
        pulled = list(threads.map(lambda one: one.push_pull(0, flat(2), 1), (store, late)))

    assert [one.next_step for one in pulled] == [1, 1]
    assert np.array_equal(pulled[0].values, flat(-2))
    assert np.array_equal(pulled[1].values, flat(-2))


def test_a_zombie_is_refused_and_told_to_stop(servers: list[ParameterServer], connect: Connect) -> None:
    store, zombie = joint_store(servers, connect, workers=2)
    set_members(servers, 1, 0, 2)

    with pytest.raises(MembersChanged, match="the workers are 0, 2 in generation 1"):
        zombie.push(0, flat(5), 1)
    with pytest.raises(MembersChanged):
        zombie.finish_run()
    with pytest.raises(StaleEpoch, match="worker 1 was left out"):
        zombie.take_place()

    store.take_place()
    late = connect(*servers, worker=2)
    late.take_place()
    with ThreadPoolExecutor(2) as threads:
        pulled = list(threads.map(lambda one: one.push_pull(0, flat(1), 1), (store, late)))
    assert np.array_equal(pulled[0].values, flat(-1))


def test_who_is_not_a_member_yet_waits_until_all_shards_know_it(
    servers: list[ParameterServer], connect: Connect
) -> None:
    joint_store(servers, connect, workers=1)
    late = connect(*servers, worker=1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(late.take_place)
        set_members(servers[:1], 1, 0, 1)
        assert not waiting.done()
        set_members(servers[1:], 1, 0, 1)
        assert waiting.result(timeout=10) == Place(1, 2, generation=1, step=0)
    with pytest.raises(DeadlineExceeded, match="worker 5 was not made a member"):
        connect(*servers, worker=5, timeout_s=IMPATIENT_S).take_place()


def test_a_worker_that_leaves_a_bounded_run_holds_nobody_up(
    servers: list[ParameterServer], connect: Connect
) -> None:
    store, _ = joint_store(
        servers, connect, workers=2, consistency=stores_pb2.CONSISTENCY_SSP, staleness_bound=1
    )
    store.push_pull(0, flat(1), 1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(store.push_pull, 1, flat(1), 1)
        for server in servers:
            await_pushes(server, 2)
        set_members(servers, 1, 0)
        assert waiting.result(timeout=10).next_step == 2
    with pytest.raises(MembersChanged):
        store.push(2, flat(1), 1)
    store.take_place()
    assert store.push_pull(2, flat(1), 1).staleness == 0


@pytest.mark.parametrize("workers", [(), (1, 0), (0, 0)])
def test_bad_members_are_refused_and_change_nothing(
    servers: list[ParameterServer], connect: Connect, workers: tuple[int, ...]
) -> None:
    joint_store(servers, connect, workers=1)
    with pytest.raises(InvalidArgument, match="ascending"):
        servers[0].stores.set_members(NAME, workers, epoch=1, generation=1)
    servers[0].stores.create(create_request(epoch=2, shard_count=2))
    with pytest.raises(StaleEpoch):
        servers[0].stores.set_members(NAME, (0,), epoch=1, generation=1)
    assert servers[1].stores.get(NAME).generation == 0


@contextmanager
def durable(folder: Path) -> Iterator[ParameterServer]:
    with parameter_server(folder=folder) as served:
        yield served


def test_a_durable_shard_that_is_restarted_knows_the_members_and_not_the_gradients_that_were_dropped(
    tmp_path: Path, connect: Connect
) -> None:
    with durable(tmp_path) as server:
        request = create_request(worker_count=2, learning_rate=1, durability=stores_pb2.DURABILITY_PROCESS)
        server.stores.create(request)
        first, second = connect(server), connect(server, worker=1)
        first.initialize(LAYOUT, flat(0))
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda one: one.push_pull(0, flat(1), 1), (first, second)))
        first.push(1, flat(9), 1)
        server.stores.set_members(NAME, (0, 2), epoch=1, generation=1)
        late = connect(server, worker=2)
        late.take_place()
        late.push(1, flat(3), 1)

    with ExitStack() as stack:
        server = stack.enter_context(durable(tmp_path))
        store = server.stores.get(NAME)
        assert (store.version, store.generation, tuple(store.workers)) == (1, 1, (0, 2))
        first = connect(server)
        first.take_place()
        assert np.array_equal(first.push_pull(1, flat(1), 1).values, flat(-1 - 2))
