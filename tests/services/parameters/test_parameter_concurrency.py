"""Many calls at once, and connections that break under them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import Unavailable
from headrace.parameters.client import Pulled, ShardedStore
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.v1 import parameters_pb2, parameters_pb2_grpc, stores_pb2
from headrace.parameters.wire import CHUNK_VALUES
from headrace.testing import free_port
from tests.services.parameters.breaking_proxy import breaking_proxy
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

PUSHES = 40


def test_a_pull_sees_the_values_of_exactly_one_version_while_others_push(
    server: ParameterServer, connect: Connect
) -> None:
    """With gradients of ones and a learning rate of 1, all values of version v are -v, exactly."""
    size = 1 << 17  # half a MiB: long enough under way to be overtaken
    layout = FlatLayout((TensorSpec("w", (size,)),))
    request = create_request(worker_count=2, consistency=stores_pb2.CONSISTENCY_ASYNC, learning_rate=1)
    server.stores.create(request)
    stores = [connect(server, worker=worker) for worker in (0, 1, 0, 0)]
    for store in stores:
        store.initialize(layout, np.zeros(size, np.float32))
    finished = threading.Event()

    def push(store: ShardedStore) -> None:
        for step in range(PUSHES):
            store.push(step, np.ones(size, np.float32), samples=1)

    def pull(store: ShardedStore) -> list[Pulled]:
        pulled = []
        while not finished.is_set():
            pulled.append(store.pull())
        return [*pulled, store.pull()]

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(pull, store) for store in stores[2:]]
        for writer in [threads.submit(push, store) for store in stores[:2]]:
            writer.result()
        finished.set()

    for reader in readers:
        seen = reader.result()
        assert all((pulled.values == -pulled.version).all() for pulled in seen)
        assert [pulled.version for pulled in seen] == sorted(pulled.version for pulled in seen)
        assert seen[-1].version == 2 * PUSHES


VALUES = 1 << 15
SIZE = 4 * VALUES


@pytest.mark.parametrize(
    "cut",
    [
        {"requests": SIZE + 700},  # after the first values, in the header of the push
        {"requests": SIZE + SIZE // 2},  # within the gradient
        {"replies": SIZE // 2},  # within the new values: the gradient has been applied
    ],
)
def test_a_connection_lost_in_the_middle_of_a_step_is_made_again_and_the_step_applied_once(
    server: ParameterServer, cut: dict[str, int]
) -> None:
    layout = FlatLayout((TensorSpec("w", (VALUES,)),))
    server.stores.create(create_request(learning_rate=1))
    with (
        breaking_proxy(server.channel.address, **cut) as proxy,
        ShardedStore([proxy.address], NAME, epoch=1, worker=0, timeout_s=20, shared_memory=False) as store,
    ):
        store.initialize(layout, np.zeros(VALUES, np.float32))

        pulled = store.push_pull(0, np.ones(VALUES, np.float32), samples=1)

        assert proxy.broken.is_set()
        assert pulled.version == 1
        assert (pulled.values == -1).all()


def test_a_shard_that_nobody_serves_is_named_when_the_time_is_over() -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        ShardedStore([address], NAME, epoch=1, worker=0, timeout_s=1) as store,
        pytest.raises(Unavailable, match=f"cannot reach {address}"),
    ):
        store.initialize(LAYOUT, flat())


def test_a_stream_that_has_begun_brings_one_version_whatever_is_pushed_meanwhile() -> None:
    """The store would overwrite its values in place if nobody read them."""
    size = 3 * CHUNK_VALUES
    with parameter_server(max_bytes=1 << 24) as server:
        server.stores.create(create_request())
        with ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=10) as store:
            store.initialize(FlatLayout((TensorSpec("w", (size,)),)), np.zeros(size, np.float32))
            request = parameters_pb2.PullRequest(store=NAME, epoch=1)
            sent = parameters_pb2_grpc.ParametersStub(server.channel).Pull(request, timeout=10)
            chunks = [next(sent)]
            store.push_pull(0, np.ones(size, np.float32), samples=1)
            chunks += sent

    assert [np.frombuffer(chunk.chunk.values, "<f4").any() for chunk in chunks] == [False] * 3
