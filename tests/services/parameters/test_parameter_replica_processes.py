"""Primaries that are frozen or killed, as real processes, and what their replicas make of it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, FailedPrecondition, NotPrimary, ReplicaUnreachable, Unavailable
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.recoding import parameters_stub, replication_stub
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA, Assignment
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from headrace.parameters.v1.replication_pb2 import AssignRequest
from headrace.parameters.wire import Piece, carry
from headrace.rpc.channel import open_channel
from tests.services.parameters.parameter_process import service_process
from tests.services.parameters.parameter_server import NAME, create_request

SIZE = 100_000
LAYOUT = FlatLayout((TensorSpec("w", (SIZE,)),))
ASYNC = stores_pb2.CONSISTENCY_ASYNC


def values(value: float) -> Floats:
    return np.full(SIZE, value, np.float32)


def create(address: str, assignment: Assignment, durability: stores_pb2.Durability.ValueType) -> None:
    request = create_request(
        durability=durability, consistency=ASYNC, learning_rate=1, assignment=assignment, worker_count=2
    )
    with StoresClient(address) as stores:
        stores.create(request)


def assign(address: str, term: int, replica: str = "") -> stores_pb2.Store:
    order = Assignment(term=term, role=STORE_ROLE_PRIMARY, replica=replica)
    with open_channel(address) as channel:
        request = AssignRequest(store=NAME, epoch=1, assignment=order)
        return replication_stub(channel).Assign(request, timeout=10)


@contextmanager
def client(
    address: str, worker: int = 0, timeout_s: float = 20.0, *, shared_memory: bool = True
) -> Iterator[ShardedStore]:
    with ShardedStore(
        [address], NAME, epoch=1, worker=worker, timeout_s=timeout_s, shared_memory=shared_memory
    ) as store:
        yield store


def push_to(stub: ParametersStub, worker: int, step: int) -> parameters_pb2.PushResponse:
    """Push to one process, and to no other, whatever it answers."""
    header = parameters_pb2.PushHeader(worker=worker, epoch=1, step=step, samples=1)
    requests = carry(parameters_pb2.PushRequest(store=NAME, header=header), [Piece(0, values(100))])
    return stub.Push(requests, timeout=20)


def test_a_frozen_primary_whose_replica_was_promoted_acknowledges_nothing_when_it_thaws() -> None:
    with ExitStack() as stack:
        first, process = stack.enter_context(service_process("parameters"))
        second, _ = stack.enter_context(service_process("parameters"))
        create(second, Assignment(term=1, role=STORE_ROLE_REPLICA), stores_pb2.DURABILITY_REPLICA)
        create(
            first, Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=second), stores_pb2.DURABILITY_REPLICA
        )
        old = stack.enter_context(client(first))
        old.initialize(LAYOUT, values(0))
        for step in range(3):
            old.push(step, values(1), samples=1)
        stub = parameters_stub(stack.enter_context(open_channel(first)))
        thread = stack.enter_context(ThreadPoolExecutor(1))

        os.kill(process.pid, signal.SIGSTOP)
        under_way = thread.submit(push_to, stub, 1, 0)  # it reaches the process when that thaws
        assert assign(second, 2).version == 3
        with client(second) as new:
            new.push(3, values(1), samples=1)
            os.kill(process.pid, signal.SIGCONT)

            with pytest.raises(NotPrimary):
                under_way.result(20)
            for worker, step in ((0, 3), (0, 2), (1, 0)):
                with pytest.raises(NotPrimary):
                    push_to(stub, worker, step)
            with pytest.raises(NotPrimary):
                list(stub.Pull(parameters_pb2.PullRequest(store=NAME, epoch=1), timeout=10))
            assert new.pull().values[0] == -4


@pytest.mark.parametrize(
    "durability", [stores_pb2.DURABILITY_REPLICA, stores_pb2.DURABILITY_REPLICA_DISK], ids=["replica", "disk"]
)
def test_a_primary_whose_replica_is_killed_goes_on_only_when_it_is_told(
    durability: stores_pb2.Durability.ValueType, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        folders = [str(tmp_path / name) for name in "ab"]
        first, _ = stack.enter_context(service_process("parameters", DATA_DIR=folders[0]))
        second, process = stack.enter_context(service_process("parameters", DATA_DIR=folders[1]))
        create(second, Assignment(term=1, role=STORE_ROLE_REPLICA), durability)
        create(first, Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=second), durability)
        with client(first, timeout_s=3) as store:
            store.initialize(LAYOUT, values(0))
            store.push(0, values(1), samples=1)
            process.kill()
            with pytest.raises((ReplicaUnreachable, Unavailable, DeadlineExceeded)):
                store.push(1, values(1), samples=1)
            assert store.pull().version == 1
            assign(first, 2)
            store.push(1, values(1), samples=1)
            assert store.pull().values[0] == -2


def test_with_disks_both_processes_may_die_and_either_has_everything(tmp_path: Path) -> None:
    durability, folders = stores_pb2.DURABILITY_REPLICA_DISK, [str(tmp_path / name) for name in "ab"]
    with ExitStack() as stack:
        first, one = stack.enter_context(service_process("parameters", DATA_DIR=folders[0]))
        second, other = stack.enter_context(service_process("parameters", DATA_DIR=folders[1]))
        create(second, Assignment(term=1, role=STORE_ROLE_REPLICA), durability)
        create(first, Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=second), durability)
        with client(first) as store:
            store.initialize(LAYOUT, values(0))
            for step in range(5):
                store.push(step, values(1), samples=1)
        one.kill()
        other.kill()

    for folder in folders:
        with service_process("parameters", DATA_DIR=folder) as (address, _), client(address) as store:
            with pytest.raises(NotPrimary, match="is standby here in term 1"):
                store.pull()
            with pytest.raises(FailedPrecondition, match="term 1"):
                assign(address, 1)
            assert assign(address, 2).version == 5
            assert store.pull().values[0] == -5
            store.push(4, values(1), samples=1)
            assert store.pull().values[0] == -5, "the last push is known"


def test_records_reach_a_replica_on_this_machine_through_memory() -> None:
    """In memory of the primary, where a gradient came by stream."""
    with ExitStack() as stack:
        first, _ = stack.enter_context(service_process("parameters"))
        second, process = stack.enter_context(service_process("parameters"))
        create(second, Assignment(term=1, role=STORE_ROLE_REPLICA), stores_pb2.DURABILITY_REPLICA)
        create(
            first, Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=second), stores_pb2.DURABILITY_REPLICA
        )
        with client(first, shared_memory=False) as store:
            store.initialize(LAYOUT, values(0))
            store.push(0, values(1), samples=1)
            maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        assert any("/memfd:headrace" in line and line.split()[1] == "rw-p" for line in maps)


def test_workers_go_on_at_the_replica_that_has_taken_over_and_then_at_its_own(tmp_path: Path) -> None:
    durability = stores_pb2.DURABILITY_REPLICA
    with ExitStack() as stack:
        addresses, processes = [], []
        for _ in range(3):
            address, process = stack.enter_context(service_process("parameters"))
            addresses.append(address)
            processes.append(process)
        create(addresses[1], Assignment(term=1, role=STORE_ROLE_REPLICA), durability)
        create(addresses[0], Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=addresses[1]), durability)
        store = stack.enter_context(client(addresses[0], timeout_s=60))
        store.initialize(LAYOUT, values(0))
        store.push(0, values(1), samples=1)

        processes[0].kill()
        thread = stack.enter_context(ThreadPoolExecutor(1))
        pushing = thread.submit(store.push, 1, values(1), 1)
        assign(addresses[1], 2)
        assert pushing.result(30) == 2
        create(addresses[2], Assignment(term=3, role=STORE_ROLE_REPLICA), durability)
        assign(addresses[1], 3, addresses[2])
        store.push(2, values(1), samples=1)  # learns of the new term, and of the new replica
        with StoresClient(addresses[1]) as stores:
            while not stores.get(NAME).replica_synced:
                pass

        processes[1].kill()
        assign(addresses[2], 4)
        assert store.push(3, values(1), samples=1) == 4
        assert store.pull().values[0] == -4
