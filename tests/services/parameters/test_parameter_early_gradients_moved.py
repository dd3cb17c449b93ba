"""Gradients that are on their way while their shards move or are replaced count once, as if nothing had been sent."""

from contextlib import ExitStack

import numpy as np

from headrace.parameters.client import ShardedStore
from headrace.parameters.early import Early
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.wire import CHUNK_VALUES
from tests.services.parameters.parameter_server import (
    NAME,
    ParameterServer,
    create_request,
    parameter_server,
)
from tests.services.parameters.replica_pair import cut_off, primary, replica
from tests.services.parameters.resharding_world import create, reshard

SIZE = 5 * CHUNK_VALUES + 7
LAYOUT = FlatLayout((TensorSpec("w", (SIZE,)),))
GRADIENT = np.random.default_rng(5).normal(size=SIZE).astype(np.float32)


def _server(stack: ExitStack) -> ParameterServer:
    return stack.enter_context(parameter_server(max_bytes=1 << 28, shared_memory=False))


def _worker(stack: ExitStack, *servers: ParameterServer) -> ShardedStore:
    addresses = [server.channel.address for server in servers]
    store = stack.enter_context(
        ShardedStore(addresses, NAME, epoch=1, worker=0, timeout_s=30, shared_memory=False)
    )
    store.initialize(LAYOUT, np.zeros(SIZE, np.float32))
    store.pull()
    return store


def _compute_half(early: Early | None) -> None:
    assert early
    early.ready(range(SIZE // 2, SIZE))


def _counted(server: ParameterServer) -> float:
    return server.counted("pushes_total")


def test_shards_that_change_meanwhile_get_the_whole_gradient_by_the_new_map() -> None:
    with ExitStack() as stack:
        first, second, third = (_server(stack) for _ in range(3))
        create([first, second], learning_rate=1)
        store = _worker(stack, first, second)
        _compute_half(store.begin_push_pull(0, GRADIENT, samples=1))

        reshard(first, shards=[first, second], add=[third])
        values: Floats = store.push_pull(0, GRADIENT, samples=1).values

        np.testing.assert_array_equal(values, -GRADIENT)
        assert store.pull().version == 1


def test_the_replica_that_takes_over_meanwhile_gets_the_whole_gradient() -> None:
    with ExitStack() as stack:
        first, second = _server(stack), _server(stack)
        durability = stores_pb2.DURABILITY_REPLICA
        for server, role in (second, replica(1)), (first, primary(1, second.channel.address)):
            request = create_request(learning_rate=1, durability=durability, assignment=role)
            server.stores.create(request)
        store = _worker(stack, first)
        _compute_half(store.begin_push_pull(0, GRADIENT, samples=1))

        cut_off(first)
        second.assign(primary(2))
        values = store.push_pull(0, GRADIENT, samples=1).values

        np.testing.assert_array_equal(values, -GRADIENT)
        assert _counted(second) == 1


def test_a_gradient_that_travels_early_is_as_durable_as_one_that_goes_whole() -> None:
    with ExitStack() as stack:
        first, second = _server(stack), _server(stack)
        durability = stores_pb2.DURABILITY_REPLICA
        for server, role in (second, replica(1)), (first, primary(1, second.channel.address)):
            request = create_request(learning_rate=1, durability=durability, assignment=role)
            server.stores.create(request)
        store = _worker(stack, first)
        _compute_half(store.begin_push_pull(0, GRADIENT, samples=1))
        store.push_pull(0, GRADIENT, samples=1)

        cut_off(first)
        second.assign(primary(2))

        np.testing.assert_array_equal(store.pull().values, -GRADIENT)
