"""Shards that hold several ranges of the vector each, as they do once others have joined or left."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import FailedPrecondition, ShardMapChanged
from headrace.names import StoreName
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1.parameters_pb2 import PullRequest, PushHeader, PushRequest
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from headrace_parameters import save_point
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, create_request, flat

Connect = Callable[..., ShardedStore]

SCATTERED = ShardMap(1, 11, 11, {0: (range(2), range(5, 7)), 1: (range(2, 5), range(7, 11))})
VALUES = np.arange(11, dtype=np.float32)


def scattered(servers: Sequence[ParameterServer]) -> None:
    """Make a store of two shards that hold what `SCATTERED` says."""
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2, learning_rate=1, momentum=0.5))
        live = server.table.get(StoreName.parse(NAME))
        held = np.concatenate([VALUES[part.start : part.stop] for part in live.held(LAYOUT)])
        live.initialize(LAYOUT, held)
        state = save_point.saved(live)
        there = np.concatenate([VALUES[part.start : part.stop] for part in SCATTERED.held(index)])
        save_point.restore(live, replace(state, map=SCATTERED, values=state.values.new_tensor(there)))


def test_a_step_over_scattered_shards_is_a_step_over_the_vector(
    servers: list[ParameterServer], connect: Connect
) -> None:
    scattered(servers)
    store = connect(*servers)
    gradient: Floats = np.linspace(-1, 1, 11, dtype=np.float32)

    assert store.pull().values.tolist() == VALUES.tolist()
    pulled = store.push_pull(0, gradient, samples=1)

    assert np.array_equal(pulled.values, VALUES - gradient)
    assert np.array_equal(store.pull(names=["scale"]).values, (VALUES - gradient)[7:])
    assert np.array_equal(store.pull(names=["weight"]).values, (VALUES - gradient)[:6])


def test_gradients_in_lent_memory_are_read_range_by_range(
    servers: list[ParameterServer], connect: Connect, transport: str
) -> None:
    scattered(servers)
    store = connect(*servers)
    gradient = store.gradient_memory(11)
    gradient[:] = VALUES

    store.push(0, gradient, samples=1)

    assert store.transport == transport, store.why_stream
    assert store.pull().values.tolist() == flat(0).tolist()


def test_a_call_by_another_map_is_refused_and_nothing_is_applied(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request())
    store = connect(server)
    store.initialize(LAYOUT, flat(1))
    parameters = ParametersStub(server.channel)
    header = PushHeader(worker=0, epoch=1, step=0, samples=1, map_epoch=2)

    with pytest.raises(ShardMapChanged, match="has shard map 1, the caller 2") as refused:
        parameters.Push(iter([PushRequest(store=NAME, header=header)]), timeout=10)
    with pytest.raises(ShardMapChanged):
        next(parameters.Pull(PullRequest(store=NAME, map_epoch=2), timeout=10))

    assert refused.value.metadata == {"map_epoch": "1"}
    assert store.pull().values.tolist() == flat(1).tolist()
    assert store.push_pull(0, flat(1), samples=1).version == 1


def test_shards_in_another_order_are_refused(servers: list[ParameterServer], connect: Connect) -> None:
    scattered(servers)

    with pytest.raises(FailedPrecondition, match=r"those of \[1, 0\]; give the addresses of all shards"):
        connect(*reversed(servers)).pull()
