"""Gradients that a worker takes back, because the call that lent them failed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.errors import Cancelled, DeadlineExceeded
from headrace.names import StoreName
from headrace.parameters.client import ShardedStore
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2, stores_pb2
from headrace.parameters.v1.shared_memory_pb2_grpc import SharedMemoryStub
from headrace.testing import until
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)


def test_a_gradient_of_a_call_that_was_given_up_counts_as_it_was(server: ParameterServer) -> None:
    """The shard has copied it when the worker took it back; so a repeat is a duplicate, whatever it brings."""
    server.stores.create(create_request(worker_count=2, consistency=stores_pb2.CONSISTENCY_BSP))
    with (
        ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=IMPATIENT_S) as store,
        ShardedStore([server.channel], NAME, epoch=1, worker=1, timeout_s=10) as other,
    ):
        store.initialize(LAYOUT, flat())
        with pytest.raises(DeadlineExceeded):
            store.push_pull(0, flat(4), samples=1)
        store.gradient_memory(LAYOUT.size).fill(50)  # the worker may write there again
        other.push(0, flat(2), samples=1)

        assert store.push_pull(0, flat(99), samples=1).values.tolist() == flat(-1.5).tolist()


def test_a_gradient_of_a_client_that_is_closed_counts_as_it_was(server: ParameterServer) -> None:
    """Its connections stay until the shard has copied what it needs: else the gradient would be lost, and with a log the store."""
    server.stores.create(create_request(worker_count=2, consistency=stores_pb2.CONSISTENCY_BSP))
    store = ShardedStore([server.channel.address], NAME, epoch=1, worker=0, timeout_s=60)
    with (
        ShardedStore([server.channel], NAME, epoch=1, worker=1, timeout_s=60) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        store.initialize(LAYOUT, flat())
        call = thread.submit(store.push_pull, 0, flat(4), samples=1)
        until(lambda: bool(server.table.get(StoreName.parse(NAME, field="store")).waiting()))
        store.close()
        with pytest.raises(Cancelled):
            call.result()

        assert other.push_pull(0, flat(2), samples=1).values.tolist() == flat(-1.5).tolist()


def test_nothing_comes_by_a_loan_that_was_taken_back(server: ParameterServer) -> None:
    """A call that was given up may still be on its way when its worker writes the next gradient."""
    segment, stub = OwnSegment(LAYOUT.size), SharedMemoryStub(server.channel)
    described = segment.describe()

    def push_pull(sequence: int) -> None:
        segment.sequence = sequence
        lent = shared_memory_pb2.SharedValues(segment=described, sequence=sequence, count=LAYOUT.size)
        header = parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1)
        request = shared_memory_pb2.PushPullSharedRequest(store=NAME, header=header, gradient=lent)
        stub.PushPullShared(request, timeout=10)

    server.stores.create(create_request())
    with ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=10) as store:
        store.initialize(LAYOUT, flat())
        taken_back = shared_memory_pb2.TakeBackSharedRequest(
            store=NAME, worker=0, nonce=described.nonce, sequence=1
        )
        stub.TakeBackShared(taken_back, timeout=10)

        with pytest.raises(Cancelled, match="took the gradient back"):
            push_pull(1)
        assert server.stores.get(NAME).version == 0
        push_pull(2)
        assert server.stores.get(NAME).version == 1
