"""Gradients that a replica copies where their worker has lent them: it has them as they were, or not at all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest

from headrace.errors import HeadraceError
from headrace.names import StoreName
from headrace.parameters.client import ShardedStore
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2
from headrace.parameters.v1.shared_memory_pb2_grpc import SharedMemoryStub
from headrace.testing import until
from headrace_parameters.replicated_store import ReplicatedStore
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, create_request, flat
from tests.services.parameters.replica_pair import REPLICA, Processes, cut_off, primary

PATIENCE_S = 60.0


@pytest.fixture
def processes() -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(stack, share=True)


@pytest.fixture
def segment() -> OwnSegment:
    """The gradient of twos of worker 1."""
    segment = OwnSegment(LAYOUT.size)
    segment.view().fill(2)
    segment.sequence = 1
    return segment


def store_in(server: ParameterServer) -> ReplicatedStore:
    store = server.table.get(StoreName.parse(NAME, field="store"))
    assert isinstance(store, ReplicatedStore)
    return store


@contextmanager
def on_its_way(
    client: ShardedStore, first: ParameterServer, second: ParameterServer, segment: OwnSegment
) -> Iterator[None]:
    """Have a gradient of worker 1 applied by the primary, and behind another one that the replica is busy with."""
    stub = SharedMemoryStub(first.channel)
    push = shared_memory_pb2.PushSharedRequest(
        store=NAME,
        header=parameters_pb2.PushHeader(worker=1, epoch=1, step=0, samples=1),
        gradient=shared_memory_pb2.SharedValues(segment=segment.describe(), sequence=1, count=LAYOUT.size),
    )
    with ThreadPoolExecutor(2) as threads:
        with store_in(second).changing:
            busy = threads.submit(client.push, 1, flat(1), samples=1)
            until(lambda: store_in(first).replicated.lag_records == 1)
            waiting = threads.submit(stub.PushShared, push, timeout=PATIENCE_S)
            until(lambda: store_in(first).replicated.lag_records == 2)
            yield
        for call in (busy, waiting):
            with suppress(
                HeadraceError
            ):  # on a busy machine, or a store that ends: the replica says what counts
                call.result()


def test_a_gradient_of_a_part_of_the_model_reaches_the_replica(processes: Processes) -> None:
    """What its record holds is more than the gradient that its worker has lent: which values it is for, too."""
    first, second = processes.pair()
    client = processes.client(first, timeout_s=PATIENCE_S)
    client.initialize(LAYOUT, flat(0))
    client.push(0, np.ones(2, np.float32), samples=1, ranges=[range(1, 3)])

    cut_off(first)
    second.assign(primary(2))
    assert processes.client(second).pull().values.tolist() == [0, -1, -1, *[0] * (LAYOUT.size - 3)]


def test_a_gradient_that_is_taken_back_reaches_the_replica_as_it_was(
    processes: Processes, segment: OwnSegment
) -> None:
    """Its worker gave the call up, and computes the next one there before the replica has looked."""
    first, second = processes.pair(worker_count=2)
    client = processes.client(first, timeout_s=PATIENCE_S)
    client.initialize(LAYOUT, flat(0))
    client.push(0, flat(1), samples=1)
    take_back = shared_memory_pb2.TakeBackSharedRequest(
        store=NAME, worker=1, nonce=segment.nonce, sequence=segment.sequence
    )
    with on_its_way(client, first, second, segment):
        SharedMemoryStub(first.channel).TakeBackShared(take_back, timeout=PATIENCE_S)
        segment.sequence = 0
        segment.view().fill(100)
    until(lambda: store_in(second).replicated.held == store_in(first).replicated.position)

    cut_off(first)
    second.assign(primary(2))
    assert processes.client(second).pull().values.tolist() == flat(-4).tolist()


def test_a_gradient_that_was_written_to_reaches_no_replica_and_ends_its_primary(
    processes: Processes, segment: OwnSegment
) -> None:
    """Its primary was frozen for longer than its worker waited, and so could not be asked."""
    first, second = processes.pair(worker_count=2)
    client = processes.client(first, timeout_s=PATIENCE_S)
    client.initialize(LAYOUT, flat(0))
    client.push(0, flat(1), samples=1)
    with on_its_way(client, first, second, segment):
        segment.sequence = 0
        segment.view().fill(100)
    until(lambda: not store_in(first).alive)

    cut_off(first)
    second.assign(primary(2))
    found = processes.client(second).pull().values.tolist()
    assert found in (
        flat(-1).tolist(),
        flat(-2).tolist(),
    )  # the one that was busy was not answered: it may be there


def test_a_primary_without_a_replica_leaves_a_gradient_out_that_was_written_to(
    processes: Processes, segment: OwnSegment
) -> None:
    """Nobody else has it, and its worker was not answered, so that it sends the gradient of this step again."""
    server = processes.start()
    server.stores.create(
        create_request(worker_count=2, learning_rate=1, durability=REPLICA, assignment=primary(1))
    )
    client = processes.client(server, timeout_s=PATIENCE_S)
    client.initialize(LAYOUT, flat(0))
    with ThreadPoolExecutor(1) as thread:
        push_pull = shared_memory_pb2.PushPullSharedRequest(
            store=NAME,
            header=parameters_pb2.PushHeader(worker=1, epoch=1, step=0, samples=1),
            gradient=shared_memory_pb2.SharedValues(
                segment=segment.describe(), sequence=1, count=LAYOUT.size
            ),
        )
        given_up = thread.submit(
            SharedMemoryStub(server.channel).PushPullShared, push_pull, timeout=PATIENCE_S
        )
        until(lambda: bool(store_in(server).waiting()))
        segment.sequence = 0
        client.push(0, flat(2), samples=1)

        again = processes.client(server, worker=1, timeout_s=PATIENCE_S)
        assert again.push_pull(0, flat(4), samples=1).values.tolist() == flat(-3).tolist()
        given_up.result()
