"""Pushes by name and by range through real servers."""

from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DtypeMismatch, FailedPrecondition, InvalidArgument, NonFiniteValues, ShapeMismatch
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import compression_pb2, parameters_pb2, shard_map_pb2, stores_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from tests.services.parameters.conftest import Connect, ready_store
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)


def two_shards(servers: list[ParameterServer], connect: Connect, workers: int = 1) -> list[ShardedStore]:
    """5 and 6 values: `weight` has 0 to 5, `bias` 6, `scale` 7 to 10."""
    for index, server in enumerate(servers):
        server.stores.create(
            create_request(shard_index=index, shard_count=2, worker_count=workers, learning_rate=1)
        )
    stores = [connect(*servers, worker=worker) for worker in range(workers)]
    stores[0].initialize(LAYOUT, flat(0))
    return stores


def values(count: int) -> Floats:
    return np.arange(1, count + 1, dtype=np.float32)


def test_a_push_by_name_touches_nothing_else(servers: list[ParameterServer], connect: Connect) -> None:
    (store,) = two_shards(servers, connect)

    store.push(0, values(6), samples=1, names=["weight"])  # in both shards
    assert store.pull(own_writes=True).values.tolist() == [-1, -2, -3, -4, -5, -6, 0, 0, 0, 0, 0]
    store.push(
        1, values(4), samples=1, names=["scale"]
    )  # in the second alone: the first has a step without gradient
    pulled = store.pull(own_writes=True)

    assert pulled.values.tolist() == [-1, -2, -3, -4, -5, -6, 0, -1, -2, -3, -4]
    assert pulled.version == 2


def test_a_push_by_range_and_whole_ones_go_together(servers: list[ParameterServer], connect: Connect) -> None:
    first, second = two_shards(servers, connect, workers=2)

    first.push(0, values(5), samples=3, ranges=[range(1, 3), range(4, 7)])
    second.push(0, flat(8), samples=1)

    mixed = [-(3 * value + 8) / 4 for value in range(1, 6)]
    expected = [-8, mixed[0], mixed[1], -8, mixed[2], mixed[3], mixed[4], -8, -8, -8, -8]
    assert first.pull(own_writes=True).values.tolist() == expected
    for step in (1, 2):
        first.push(step, flat(0), samples=1)  # whole again: the memory lent is the other
        second.push(step, values(1), samples=1, names=["bias"])
        first.pull(own_writes=True)
    assert first.pull().values[6] == expected[6] - 2 * 0.5


def test_a_repeated_part_is_applied_once(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect, learning_rate=1)

    for _ in range(2):
        assert store.push(0, values(4), samples=1, names=["scale"]) == 1
    assert store.push(0, values(6), samples=1, names=["weight"]) == 1  # another part of the same step

    assert store.pull().values.tolist() == [0, 0, 0, 0, 0, 0, 0, -1, -2, -3, -4]
    assert (server.counted("pushes_total"), server.counted("duplicates_total")) == (1, 2)


@pytest.mark.parametrize(
    ("gradient", "part", "error", "says"),
    [
        (values(4), {"names": ["bias"]}, ShapeMismatch, "this part of the model has .1."),
        (values(1), {"names": ["none"]}, InvalidArgument, "there is no tensor 'none' in this model"),
        (values(2), {"ranges": [range(9, 12)]}, InvalidArgument, "within 11 values"),
        (values(1), {"names": ["bias"], "ranges": [range(1)]}, InvalidArgument, "give one of them"),
        (np.zeros(1, np.float64), {"names": ["bias"]}, DtypeMismatch, "float64 was given"),
        (np.array([np.nan], np.float32), {"names": ["bias"]}, NonFiniteValues, "nothing was applied"),
    ],
)
def test_parts_that_cannot_be_are_refused_and_nothing_is_applied(
    server: ParameterServer,
    connect: Connect,
    gradient: Floats,
    part: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    store = ready_store(server, connect)

    with pytest.raises(error, match=says):
        store.push(0, gradient, samples=1, **part)  # type: ignore[arg-type]  # one of the cases

    assert store.pull().version == 0
    assert store.push(0, values(1), samples=1, names=["bias"]) == 1


@pytest.mark.parametrize(
    ("coverage", "error"),
    [
        (parameters_pb2.Coverage(tensors=["none"]), InvalidArgument),
        (parameters_pb2.Coverage(ranges=[shard_map_pb2.ValueRange(start=5, stop=5)]), InvalidArgument),
        (parameters_pb2.Coverage(tensors=["bias"]), ShapeMismatch),
        (parameters_pb2.Coverage(nothing=True), ShapeMismatch),
    ],
)
def test_the_service_refuses_them_too(
    server: ParameterServer, connect: Connect, coverage: parameters_pb2.Coverage, error: type[Exception]
) -> None:
    """The gradient has four values."""
    store, stub = ready_store(server, connect), ParametersStub(server.channel)
    header = parameters_pb2.PushHeader(epoch=1, samples=1, coverage=coverage)
    chunk = parameters_pb2.Chunk(values=bytes(16))

    with pytest.raises(error):
        stub.Push(iter([parameters_pb2.PushRequest(store=NAME, header=header, chunk=chunk)]), timeout=10)

    assert store.pull().version == 0


def test_lamb_and_clipping_over_shards_take_whole_gradients(
    servers: list[ParameterServer], connect: Connect
) -> None:
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=2)
        request.optimizer.maximum_gradient_norm = 1
        server.stores.create(request)
    store = connect(*servers)
    store.initialize(LAYOUT, flat(0))

    with pytest.raises(FailedPrecondition, match="push the others with zeros"):
        store.push(0, values(1), samples=1, names=["bias"])


def test_parts_survive_the_process(tmp_path: Path) -> None:
    request = create_request(learning_rate=1, momentum=0.9)
    request.durability = stores_pb2.DURABILITY_PROCESS
    with parameter_server(folder=tmp_path) as server:
        server.stores.create(request)
        with ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=10) as store:
            store.initialize(LAYOUT, flat(0))
            store.push(0, values(4), samples=1, names=["scale"])
            store.push(1, values(2), samples=1, ranges=[range(5, 7)])
            before = store.pull().values
    with (
        parameter_server(folder=tmp_path) as server,
        ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=10) as store,
    ):
        assert np.array_equal(store.pull().values, before)
        assert store.push(1, values(2), samples=1, ranges=[range(5, 7)]) == 2  # known
        store.push(2, values(4), samples=1, names=["scale"])
        expected = [0, 0, 0, 0, 0, -1, -2, *(-2.9 * values(4))]
        np.testing.assert_allclose(store.pull().values, expected, rtol=1e-6)


def test_parts_travel_in_fewer_bits_and_are_not_kept_back(
    servers: list[ParameterServer],
) -> None:
    filters = [
        compression_pb2.Compression(gradient_encoding=compression_pb2.ENCODING_INT8),
        compression_pb2.Compression(top_k=compression_pb2.TopK(density=0.1)),
    ]
    for epoch, compression in enumerate(filters, start=1):
        for index, server in enumerate(servers):
            request = create_request(shard_index=index, shard_count=2, learning_rate=1, epoch=epoch)
            request.compression.CopyFrom(compression)
            server.stores.create(request)
        channels = [server.channel for server in servers]
        with ShardedStore(channels, NAME, epoch=epoch, worker=0, timeout_s=10, shared_memory=False) as store:
            store.initialize(LAYOUT, flat(0))
            store.push(0, values(6), samples=1, names=["weight"])
            np.testing.assert_allclose(store.pull().values[:6], -values(6), atol=6 / 254)
