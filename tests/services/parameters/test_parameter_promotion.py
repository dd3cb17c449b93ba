"""A replica that becomes the primary has all that was acknowledged, and at most one process acknowledges anything."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotPrimary,
    ReplicaUnreachable,
    RunFinished,
    StaleTerm,
)
from headrace.names import StoreName
from headrace.parameters.recoding import parameters_stub
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace_parameters.core.exchange import Push
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    create_request,
    flat,
)
from tests.services.parameters.replica_pair import REPLICA, Processes, cut_off, primary, replica


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
