"""Pulls of a part: by range, of what is newer, and of what one has written."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, InvalidArgument, ShapeMismatch
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from headrace.parameters.v1.shard_map_pb2 import ValueRange
from tests.services.parameters.breaking_proxy import breaking_proxy
from tests.services.parameters.conftest import Connect, ready_store
from tests.services.parameters.parameter_process import service_process
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)

ASYNC = stores_pb2.CONSISTENCY_ASYNC


def two_shards(servers: list[ParameterServer], connect: Connect, **request: object) -> ShardedStore:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2, **request))  # type: ignore[arg-type]
    store = connect(*servers)
    store.initialize(LAYOUT, counting())
    return store


def counting() -> Floats:
    return np.arange(LAYOUT.size, dtype=np.float32)


def test_a_pull_by_range_gathers_it_from_all_shards(servers: list[ParameterServer], connect: Connect) -> None:
    store = two_shards(servers, connect)  # 5 and 6 values

    assert store.pull(ranges=[range(3, 7)]).values.tolist() == [3, 4, 5, 6]
    assert store.pull(ranges=[range(1), range(4, 5), range(9, 11)]).values.tolist() == [0, 4, 9, 10]
    assert store.pull(ranges=[range(11)]).values.tolist() == counting().tolist()


@pytest.mark.parametrize(
    "ranges",
    [[range(3, 3)], [range(12)], [range(4, 6), range(5, 7)], [range(5, 7), range(2)], [range(0, 4, 2)]],
)
def test_ranges_that_cannot_be_are_refused(
    server: ParameterServer, connect: Connect, ranges: list[range]
) -> None:
    with pytest.raises(InvalidArgument, match="ascending, apart, not empty, and within 11 values") as refused:
        ready_store(server, connect).pull(ranges=ranges)

    assert refused.value.field == "ranges"


def test_the_service_refuses_such_ranges_too(server: ParameterServer, connect: Connect) -> None:
    ready_store(server, connect)
    stub = ParametersStub(server.channel)

    for request in (
        parameters_pb2.PullRequest(store=NAME, ranges=[ValueRange(start=4, stop=12)]),
        parameters_pb2.PullRequest(store=NAME, ranges=[ValueRange(start=4, stop=5)], tensors=["bias"]),
    ):
        with pytest.raises(InvalidArgument) as refused:
            list(stub.Pull(request, timeout=10))
        assert refused.value.field == "ranges"


def test_values_that_are_known_are_not_sent_again(servers: list[ParameterServer], connect: Connect) -> None:
    store = two_shards(servers, connect, learning_rate=1)
    first = store.pull()

    same = store.pull(newer_than=first)
    assert (same.modified, same.version) == (False, 0)
    assert same.values is first.values
    assert same.values.tolist() == counting().tolist()

    store.push(0, flat(1), samples=1)
    newer = store.pull(newer_than=same)
    assert (newer.modified, newer.version) == (True, 1)
    assert newer.values.tolist() == (counting() - 1).tolist()
    assert not store.pull(newer_than=newer).modified
    assert sum(server.counted("not_modified_total") for server in servers) == 4


def test_only_the_shards_that_have_newer_values_send_them(
    servers: list[ParameterServer], connect: Connect
) -> None:
    store = two_shards(servers, connect, consistency=ASYNC, learning_rate=1)
    known = store.pull()
    header = parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1)
    chunk = parameters_pb2.Chunk(values=np.ones(6, "<f4").tobytes())
    push = parameters_pb2.PushRequest(store=NAME, header=header, chunk=chunk)
    ParametersStub(servers[1].channel).Push(iter([push]), timeout=10)

    newer = store.pull(newer_than=known)

    assert newer.values.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert [server.counted("not_modified_total") for server in servers] == [1, 0]


def test_known_values_of_some_tensors_are_brought_up_to_date(
    servers: list[ParameterServer], connect: Connect
) -> None:
    store = two_shards(servers, connect, learning_rate=1)
    known = store.pull(names=["scale"])
    store.push(0, flat(1), samples=1)

    assert store.pull(names=["scale"], newer_than=known).values.tolist() == [6, 7, 8, 9]
    with pytest.raises(ShapeMismatch):
        store.pull(newer_than=known)


def test_a_restored_store_does_not_pass_for_the_one_that_was_known(
    server: ParameterServer, connect: Connect
) -> None:
    """The version is the same, the values are others."""
    store = ready_store(server, connect, learning_rate=1)
    saved = store.snapshot().artifacts[0]
    store.push(0, flat(1), samples=1)
    known = store.pull()
    server.stores.restore(NAME, saved, epoch=1)
    store.push(0, flat(5), samples=1)

    newer = store.pull(newer_than=known)

    assert (newer.modified, newer.version) == (True, 1)
    assert newer.values.tolist() == flat(-5).tolist()


def test_who_knows_only_the_version_may_ask_by_it(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect, learning_rate=1)
    store.push(0, flat(1), samples=1)
    stub = ParametersStub(server.channel)

    def ask(version: int) -> parameters_pb2.PullResponse:
        known = parameters_pb2.KnownValues(version=version)
        return next(stub.Pull(parameters_pb2.PullRequest(store=NAME, known=known), timeout=10))

    assert not ask(0).not_modified
    assert ask(1).not_modified
    assert not ask(1).chunk.values


def test_not_modified_costs_a_few_bytes() -> None:
    """Of all that travels, both ways, headers and acknowledgements of HTTP/2 included."""
    answer = parameters_pb2.PullResponse(version=10**6, not_modified=True, incarnation=(1 << 64) - 1)
    assert answer.ByteSize() == 15
    with service_process("parameters") as (address, _), breaking_proxy(address) as proxy:
        with StoresClient(address) as stores:
            stores.create(create_request())
        with ShardedStore([proxy.address], NAME, epoch=1, worker=0, shared_memory=False) as store:
            store.initialize(LAYOUT, flat(0))
            known = store.pull()
            for _ in range(3):  # until both ends have learned each other's headers
                store.pull(newer_than=known)
            before = proxy.passed
            for _ in range(10):
                assert not store.pull(newer_than=known).modified
            assert (proxy.passed - before) / 10 < 300


@pytest.mark.parametrize(
    ("mode", "bound"),
    [(ASYNC, 0), (stores_pb2.CONSISTENCY_SSP, 2), (stores_pb2.CONSISTENCY_BSP, 0)],
    ids=["async", "ssp", "bsp"],
)
def test_a_worker_reads_what_it_has_written(
    servers: list[ParameterServer],
    connect: Connect,
    mode: stores_pb2.Consistency.ValueType,
    bound: int,
) -> None:
    mine = two_shards(
        servers, connect, worker_count=2, consistency=mode, staleness_bound=bound, learning_rate=1
    )
    other = connect(*servers, worker=1)
    assert mine.pull(own_writes=True).version == 0  # nothing was written

    for step in range(3):
        mine.push(step, flat(1), samples=1)
        if mode == stores_pb2.CONSISTENCY_BSP:
            other.push(step, flat(1), samples=1)
        assert mine.pull(own_writes=True).values.tolist() == (counting() - step - 1).tolist()


def test_under_bsp_reading_ones_writes_waits_for_the_others(
    servers: list[ParameterServer], connect: Connect
) -> None:
    mine = two_shards(servers, connect, worker_count=2, learning_rate=1)
    other, began = connect(*servers, worker=1), threading.Event()
    mine.push(0, flat(1), samples=1)
    assert mine.pull().version == 0

    def read() -> Floats:
        began.set()
        return mine.pull(own_writes=True).values

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        assert began.wait(10)
        other.push(0, flat(3), samples=1)

    assert reading.result().tolist() == (counting() - 2).tolist()


def test_a_write_that_nobody_completes_is_not_read(servers: list[ParameterServer], connect: Connect) -> None:
    two_shards(servers, connect, worker_count=2)
    impatient = connect(*servers, timeout_s=IMPATIENT_S)
    impatient.push(0, flat(1), samples=1)

    with pytest.raises(DeadlineExceeded, match=r"the pushes of workers \[1\] for step 0 are missing"):
        impatient.pull(own_writes=True)


def test_a_clipped_step_is_finished_by_who_reads_it(servers: list[ParameterServer], connect: Connect) -> None:
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=2, learning_rate=1)
        request.optimizer.maximum_gradient_norm = 100
        server.stores.create(request)
    store = connect(*servers)
    store.initialize(LAYOUT, flat(0))
    store.push(0, flat(1), samples=1)

    assert store.pull(own_writes=True).values.tolist() == flat(-1).tolist()
