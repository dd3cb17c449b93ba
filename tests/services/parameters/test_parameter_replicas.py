# length: one pair of processes, and all that may befall it
"""A store in two processes: what one acknowledges the other has, and at most one of them acknowledges anything."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from headrace.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NotPrimary,
    ReplicaUnreachable,
    RunFinished,
    StaleTerm,
)
from headrace.names import StoreName
from headrace.parameters.client import ShardedStore
from headrace.parameters.recoding import parameters_stub
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.v1.assignment_pb2 import (
    STORE_ROLE_PRIMARY,
    STORE_ROLE_REPLICA,
    Assignment,
)
from headrace_parameters.core.exchange import Push
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

REPLICA = stores_pb2.DURABILITY_REPLICA
ASYNC = stores_pb2.CONSISTENCY_ASYNC


def primary(term: int, replica: str = "") -> Assignment:
    return Assignment(term=term, role=STORE_ROLE_PRIMARY, replica=replica)


def replica(term: int) -> Assignment:
    return Assignment(term=term, role=STORE_ROLE_REPLICA)


@pytest.fixture(params=[True, False], ids=["shared memory", "stream"])
def share(request: pytest.FixtureRequest) -> bool:
    """Whether records reach the replica through memory."""
    return bool(request.param)


class Processes:
    """Parameter processes that come and go."""

    def __init__(self, stack: ExitStack, *, share: bool) -> None:
        self._stack, self._share = stack, share

    def start(self) -> ParameterServer:
        return self._stack.enter_context(parameter_server(shared_memory=self._share))

    def client(self, server: ParameterServer, worker: int = 0, timeout_s: float = 10.0) -> ShardedStore:
        store = ShardedStore(
            [server.channel], NAME, epoch=1, worker=worker, timeout_s=timeout_s, shared_memory=self._share
        )
        return server.clients.enter_context(store)

    def pair(self, **request: object) -> tuple[ParameterServer, ParameterServer]:
        """Start two that hold one store, which waits for its first values."""
        first, second = self.start(), self.start()
        make = {"durability": REPLICA, "learning_rate": 1.0, "consistency": ASYNC, **request}
        second.stores.create(create_request(**make, assignment=replica(1)))  # type: ignore[arg-type]  # named by each test
        first.stores.create(create_request(**make, assignment=primary(1, second.channel.address)))  # type: ignore[arg-type]  # likewise
        return first, second


@pytest.fixture
def processes(share: bool) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(stack, share=share)


def cut_off(server: ParameterServer) -> None:
    """Let nobody reach a process any more."""
    server.channel.server.stop(0).wait()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold within a minute"
        time.sleep(0.01)


def test_a_promoted_replica_has_all_that_was_acknowledged(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    for step in range(5):
        client.push(step, flat(1), samples=1)
    cut_off(first)

    store = second.assign(primary(2))

    assert (store.version, store.assignment.term) == (5, 2)
    promoted = processes.client(second)
    assert promoted.pull().values.tolist() == flat(-5).tolist()
    promoted.push(4, flat(1), samples=1)
    assert promoted.pull().version == 5, "the last push is known there, and not applied twice"
    promoted.push(5, flat(1), samples=1)
    assert promoted.pull().values.tolist() == flat(-6).tolist()


def test_a_gradient_that_waits_for_the_others_of_its_step_is_on_the_replica(processes: Processes) -> None:
    first, second = processes.pair(worker_count=2, consistency=stores_pb2.CONSISTENCY_BSP, momentum=0.9)
    clients = [processes.client(first, worker) for worker in range(2)]
    clients[0].initialize(LAYOUT, flat(0))
    for client in clients:
        client.push(0, flat(2), samples=1)
    clients[0].push(1, flat(4), samples=1)
    cut_off(first)
    second.assign(primary(2))

    promoted = [processes.client(second, worker) for worker in range(2)]
    assert promoted[0].push(1, flat(4), samples=1) == 1, "it was taken before: the step is still incomplete"
    values = promoted[1].push_pull(1, flat(8), samples=1).values

    assert values.tolist() == flat(-2 - (0.9 * 2 + 6)).tolist()


def test_a_replica_serves_nothing(processes: Processes) -> None:
    first, second = processes.pair()
    processes.client(first).initialize(LAYOUT, flat(0))
    client = processes.client(second)
    for call in (
        client.pull,
        lambda: client.push(0, flat(1), samples=1),
        lambda: client.initialize(LAYOUT, flat(0)),
    ):
        with pytest.raises(NotPrimary, match=r"is replica here in term 1"):
            call()


def test_a_primary_without_its_replica_acknowledges_nothing_and_shows_nothing(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first, timeout_s=4.0)
    client.initialize(LAYOUT, flat(0))
    cut_off(second)

    with pytest.raises((ReplicaUnreachable, DeadlineExceeded)):
        client.push(0, flat(1), samples=1)

    assert client.pull().version == 0


def test_what_was_not_acknowledged_is_once_the_primary_may_go_on_alone(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first, timeout_s=4.0)
    client.initialize(LAYOUT, flat(0))
    cut_off(second)
    with pytest.raises((ReplicaUnreachable, DeadlineExceeded)):
        client.push(0, flat(1), samples=1)

    first.assign(primary(2))

    assert client.push(0, flat(1), samples=1) == 1
    assert client.pull().values.tolist() == flat(-1).tolist()


def test_a_primary_whose_replica_was_promoted_acknowledges_nothing_and_says_who_may(
    processes: Processes,
) -> None:
    first, second = processes.pair()
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    second.assign(primary(2))

    with pytest.raises(NotPrimary) as refused:
        first.table.get(StoreName.parse(NAME)).push(Push(0, 0, 1.0, flat(1)))

    assert refused.value.metadata["primary"] == second.channel.address
    assert client.push(0, flat(1), samples=1) == 1, "the client has gone there"
    assert second.stores.get(NAME).version == 1


def test_a_pull_that_waits_at_a_deposed_primary_ends(processes: Processes) -> None:
    first, second = processes.pair()
    processes.client(first).initialize(LAYOUT, flat(0))
    request = parameters_pb2.PullRequest(store=NAME, epoch=1, min_version=7)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(list, parameters_stub(first.channel).Pull(request, timeout=10))
        second.assign(primary(2))
        with pytest.raises(NotPrimary):
            first.table.get(StoreName.parse(NAME)).push(Push(0, 0, 1.0, flat(1)))
        with pytest.raises(NotPrimary):
            waiting.result(5)


def test_a_new_replica_catches_up_while_pushes_go_on(processes: Processes) -> None:
    first, second = processes.pair(momentum=0.5)
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    for step in range(3):
        client.push(step, flat(1), samples=1)
    cut_off(second)
    first.assign(primary(2))
    client.push(3, flat(1), samples=1)

    third = processes.start()
    make = {"durability": REPLICA, "learning_rate": 1.0, "consistency": ASYNC, "momentum": 0.5}
    third.stores.create(create_request(**make, assignment=replica(3)))  # type: ignore[arg-type]  # as above
    first.assign(primary(3, third.channel.address))
    step = 4
    while not first.stores.get(NAME).replica_synced:
        client.push(step, flat(1), samples=1)
        step += 1
    client.push(step, flat(1), samples=1)
    values = client.pull().values
    cut_off(first)

    assert third.assign(primary(4)).version == step + 1
    promoted = processes.client(third)
    assert promoted.pull().values.tolist() == values.tolist()
    assert promoted.push(step + 1, flat(1), samples=1) == step + 2


def test_first_values_reach_the_replica_before_the_first_push(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first)
    client.initialize(LAYOUT, flat(3))
    until(lambda: second.stores.get(NAME).replica_synced)
    assert second.stores.get(NAME).initialized


def test_a_replica_that_has_not_caught_up_is_not_promoted(processes: Processes) -> None:
    alone = processes.start()
    alone.stores.create(create_request(durability=REPLICA, assignment=replica(1)))
    with pytest.raises(FailedPrecondition, match="has not caught up"):
        alone.assign(primary(2))


def test_orders_of_smaller_terms_are_refused(processes: Processes) -> None:
    first, second = processes.pair()
    processes.client(first).initialize(LAYOUT, flat(0))
    first.assign(primary(5))
    assert first.assign(primary(5)).assignment.term == 5, "a repeat is no error"
    with pytest.raises(StaleTerm) as refused:
        first.assign(primary(4, second.channel.address))
    assert refused.value.metadata["term"] == "5"
    with pytest.raises(FailedPrecondition, match="taken here"):
        first.assign(primary(5, second.channel.address))
    with pytest.raises(FailedPrecondition, match="delete it here"):
        first.assign(replica(6))


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"durability": REPLICA}, "assignment"),
        ({"assignment": primary(1)}, "assignment"),
        ({"durability": REPLICA, "assignment": Assignment(role=STORE_ROLE_PRIMARY)}, "assignment.term"),
        ({"durability": REPLICA, "assignment": Assignment(term=1)}, "assignment.role"),
        (
            {"durability": REPLICA, "assignment": Assignment(term=1, role=STORE_ROLE_REPLICA, replica="a:1")},
            "assignment.replica",
        ),
        (
            {
                "durability": REPLICA,
                "assignment": replica(1),
                "snapshots": [f"projects/default/artifacts/{'0' * 64}"],
            },
            "snapshots",
        ),
    ],
)
def test_a_store_that_cannot_be_replicated_so_is_refused(
    server: ParameterServer, request_fields: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        server.stores.create(create_request(**request_fields))  # type: ignore[arg-type]  # named above
    assert refused.value.field == field
    with pytest.raises(HeadraceError):
        server.stores.get(NAME)
    server.stores.create(create_request())
    with pytest.raises(FailedPrecondition, match="has no replica"):
        server.assign(primary(2))


def test_values_reach_the_replica_as_they_are(processes: Processes) -> None:
    first, second = processes.pair(learning_rate=0.125)
    client = processes.client(first)
    client.initialize(LAYOUT, np.arange(LAYOUT.size, dtype=np.float32))
    gradient = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    for step in range(20):  # more than there is memory for at once
        client.push(step, gradient, samples=1)
    expected = client.pull().values
    cut_off(first)
    second.assign(primary(2))
    assert processes.client(second).pull().values.tolist() == expected.tolist()


def test_a_change_of_the_members_reaches_the_replica(processes: Processes) -> None:
    first, second = processes.pair(worker_count=2, consistency=stores_pb2.CONSISTENCY_BSP)
    processes.client(first).initialize(LAYOUT, flat(0))
    stores = [server.table.get(StoreName.parse(NAME)) for server in (first, second)]
    stores[0].push(
        Push(0, 0, 1.0, flat(100))
    )  # dropped by the change: the new members compute the step again
    stores[0].change_members(1, (0,))
    stores[0].push(Push(0, 0, 1.0, flat(1), generation=1))
    cut_off(first)

    assert list(second.assign(primary(2)).workers) == [0]
    assert stores[1].published
    assert stores[1].published.values.tolist() == flat(-1).tolist()


def test_a_promoted_replica_knows_that_the_run_is_over(processes: Processes) -> None:
    first, second = processes.pair(worker_count=2, consistency=stores_pb2.CONSISTENCY_BSP)
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    client.push(0, flat(1), samples=1)
    client.finish_run()
    client.finish_run()
    cut_off(first)

    second.assign(primary(2))

    for call in (client.pull, lambda: processes.client(second, worker=1).push(0, flat(1), samples=1)):
        with pytest.raises(RunFinished):
            call()
    client.finish_run()  # a repeat, at whoever serves now


def test_the_end_of_a_run_is_not_acknowledged_before_the_replica_knows_it(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first, timeout_s=4.0)
    client.initialize(LAYOUT, flat(0))
    cut_off(second)
    with pytest.raises((ReplicaUnreachable, DeadlineExceeded)):
        client.finish_run()
    first.assign(primary(2))
    client.finish_run()
    with pytest.raises(RunFinished):
        client.pull()


def test_a_replica_that_comes_after_the_end_of_the_run_knows_it_too(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    cut_off(second)
    first.assign(primary(2))
    client.finish_run()
    third = processes.start()
    third.stores.create(
        create_request(durability=REPLICA, learning_rate=1.0, consistency=ASYNC, assignment=replica(3))
    )
    first.assign(primary(3, third.channel.address))
    until(lambda: third.stores.get(NAME).replica_synced)
    third.assign(primary(4))
    with pytest.raises(RunFinished):
        processes.client(third).pull()


def test_a_replica_that_has_diverged_discards_what_it_has_and_begins_anew(processes: Processes) -> None:
    first, second = processes.pair()
    client = processes.client(first)
    client.initialize(LAYOUT, flat(0))
    client.push(0, flat(1), samples=1)
    store = second.table.get(StoreName.parse(NAME))
    store._shard.push(Push(0, 1, 1.0, flat(50)))  # what no primary has sent

    client.push(1, flat(1), samples=1)

    assert second.stores.get(NAME).replica_synced, "else it would not be acknowledged"
    cut_off(first)
    second.assign(primary(2))
    assert processes.client(second).pull().values.tolist() == flat(-2).tolist()
