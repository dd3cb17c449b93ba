"""Pushes and pulls through a real server."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    Cancelled,
    DeadlineExceeded,
    HeadraceError,
    NonFiniteValues,
    NotFound,
    ServerDraining,
    StaleEpoch,
)
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from headrace.parameters.wire import map_from_proto
from tests.services.parameters.conftest import Connect, ready_store
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)

ASYNC = stores_pb2.CONSISTENCY_ASYNC


def test_a_step_of_two_workers_applies_the_mean_weighted_by_samples(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request(worker_count=2, learning_rate=0.5))
    workers = [connect(server, worker=worker) for worker in range(2)]
    for worker in workers:
        worker.initialize(LAYOUT, flat(1))

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(workers[0].push_pull, 0, flat(4), 30)
        quick = threads.submit(workers[1].push_pull, 0, flat(8), 10)

    assert slow.result().version == quick.result().version == 1
    assert slow.result().values.tolist() == flat(1 - 0.5 * 5).tolist()
    assert np.array_equal(slow.result().values, quick.result().values)


def test_two_shards_hold_one_vector(servers: list[ParameterServer], connect: Connect) -> None:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2, learning_rate=1))
    store = connect(*servers)
    values = np.arange(LAYOUT.size, dtype=np.float32)
    store.initialize(LAYOUT, values)
    out = flat()

    pulled = store.push_pull(0, flat(1), samples=1, out=out)

    assert pulled.values is out
    assert out.tolist() == (values - 1).tolist()
    assert [server.stores.get(NAME).length for server in servers] == [5, 6]
    maps = [server.stores.get(NAME).shard_map for server in servers]
    assert map_from_proto(maps[0]).ranges == {0: (range(5),), 1: (range(5, 11),)}
    assert maps[0] == maps[1]


def test_a_pull_of_some_tensors_gathers_their_parts_from_all_shards(
    servers: list[ParameterServer], connect: Connect
) -> None:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2))
    values = np.arange(LAYOUT.size, dtype=np.float32)
    connect(*servers).initialize(LAYOUT, values)
    reader = connect(*servers, epoch=0)

    assert reader.pull(names=["scale"]).values.tolist() == [7, 8, 9, 10]
    assert reader.pull(names=["scale", "weight"]).values.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert reader.layout == LAYOUT


def test_more_shards_than_values_leave_some_empty(servers: list[ParameterServer], connect: Connect) -> None:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2, learning_rate=1))
    store = connect(*servers)
    scalar = FlatLayout((TensorSpec("x", ()),))

    store.initialize(scalar, np.array([3], np.float32))

    assert store.push_pull(0, np.array([1], np.float32), samples=1).values.tolist() == [2]


def test_only_the_first_values_count(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect)
    store.push_pull(0, flat(1), samples=1)

    assert connect(server).initialize(LAYOUT, flat(77)) == 1
    assert store.pull().values.tolist() == flat(-0.5).tolist()


def test_a_push_sent_twice_is_applied_once(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect)

    first = store.push_pull(0, flat(1), samples=1)
    again = store.push_pull(0, flat(1), samples=1)

    assert first.version == again.version == 1
    assert first.values.tolist() == again.values.tolist() == flat(-0.5).tolist()
    assert (server.counted("pushes_total"), server.counted("duplicates_total")) == (1, 1)


def test_asynchronous_pushes_are_applied_at_once(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect, worker_count=2, consistency=ASYNC, learning_rate=1)
    other = connect(server, worker=1)

    assert store.push(7, flat(1), samples=1) == 1
    assert other.push(3, flat(1), samples=1) == 2
    assert store.push(6, flat(1), samples=1) == 2  # older than worker 0's last
    assert other.pull(min_version=2).values.tolist() == flat(-2).tolist()


def test_a_pull_waits_for_its_version(server: ParameterServer, connect: Connect) -> None:
    store, reader = ready_store(server, connect), connect(server)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(reader.pull, 2)
        store.push(0, flat(1), samples=1)
        assert not waiting.done()
        store.push(1, flat(1), samples=1)

    assert waiting.result().version == 2


def test_a_pull_waits_for_the_first_values(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request())
    stub = ParametersStub(server.channel)
    waiting = stub.Pull(parameters_pb2.PullRequest(store=NAME, epoch=1), timeout=10)

    connect(server).initialize(LAYOUT, flat(3))

    assert np.frombuffer(next(waiting).chunk.values, "<f4").tolist() == flat(3).tolist()


def test_a_deadline_tells_whose_push_is_missing(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request(worker_count=3))
    store = connect(server, worker=1, timeout_s=IMPATIENT_S)
    store.initialize(LAYOUT, flat(0))

    with pytest.raises(
        DeadlineExceeded, match=r"the pushes of workers \[0, 2\] for step 0 are missing"
    ) as late:
        store.push_pull(0, flat(1), samples=1)

    assert late.value.metadata == {"version": "0", "missing_workers": "0,2"}


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda server: server.stores.delete(NAME), NotFound),
        (lambda server: server.stores.create(create_request(epoch=2)), StaleEpoch),
        (lambda server: server.table.drain(), ServerDraining),
    ],
)
def test_a_waiting_pull_ends_with_its_store(
    server: ParameterServer,
    connect: Connect,
    end: Callable[[ParameterServer], object],
    error: type[HeadraceError],
) -> None:
    ready_store(server, connect)
    waiting = ParametersStub(server.channel).Pull(
        parameters_pb2.PullRequest(store=NAME, epoch=1, min_version=1), timeout=10
    )

    end(server)

    with pytest.raises(error):
        next(waiting)


def test_closing_the_client_ends_a_call_that_waits(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect, worker_count=2)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.push_pull, 0, flat(1), 1)
        connect(server, worker=1).layout  # noqa: B018 - a round trip, in which the push gets going
        store.close()

    with pytest.raises(Cancelled):
        waiting.result()


def test_a_closed_client_calls_nobody(server: ParameterServer, connect: Connect) -> None:
    """So it does not matter whether a call begins just before or just after."""
    store = ready_store(server, connect, worker_count=2)
    store.close()

    with pytest.raises(Cancelled):
        store.push_pull(0, flat(1), 1)


def test_a_failure_of_one_shard_ends_the_call_to_the_others(
    servers: list[ParameterServer], connect: Connect
) -> None:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2, worker_count=2))
    store = connect(*servers, timeout_s=60)
    store.initialize(LAYOUT, flat(0))
    gradient = flat(1)
    gradient[-1] = np.nan  # shard 1 refuses it, while shard 0 waits for worker 1

    with pytest.raises(NonFiniteValues):
        store.push_pull(0, gradient, samples=1)


def test_a_caller_that_vanishes_in_a_push_has_pushed_nothing(
    server: ParameterServer, connect: Connect
) -> None:
    store = ready_store(server, connect)
    half_sent, gone = threading.Event(), threading.Event()

    def half_a_push() -> Iterator[parameters_pb2.PushRequest]:
        yield parameters_pb2.PushRequest(
            store=NAME,
            header=parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1),
            chunk=parameters_pb2.Chunk(offset=0, values=bytes(4)),
        )
        half_sent.set()
        gone.wait(10)

    call = ParametersStub(server.channel).Push.future(half_a_push(), timeout=10)
    assert half_sent.wait(10)
    call.cancel()
    gone.set()

    assert store.pull().version == 0
    assert store.push_pull(0, flat(1), samples=1).values.tolist() == flat(-0.5).tolist()
    assert server.channel.server.drain(30), "the handler of the call must have returned"


def test_a_caller_that_stops_waiting_leaves_no_thread_behind(
    server: ParameterServer, connect: Connect
) -> None:
    ready_store(server, connect)
    call = ParametersStub(server.channel).Pull(
        parameters_pb2.PullRequest(store=NAME, epoch=1, min_version=1), timeout=60
    )

    call.cancel()

    assert server.channel.server.drain(30), "the handler of the call must have returned"


def test_what_passes_is_counted(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect)

    store.push_pull(0, flat(1), samples=1)

    size = 4 * LAYOUT.size
    assert server.counted("received_bytes_total") == 2 * size
    assert server.counted("sent_bytes_total") == size
    assert server.counted("wait_seconds_count") == server.counted("pulls_total") == 1
    label = {"store": NAME}
    assert server.metrics.get_sample_value("headrace_parameters_store_version", label) == 1
    assert server.metrics.get_sample_value("headrace_parameters_store_bytes", label) == size
