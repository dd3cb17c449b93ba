"""A store in two processes: what one acknowledges the other has, before anybody is told."""

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
)
from headrace.names import StoreName
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import (
    STORE_ROLE_PRIMARY,
    STORE_ROLE_REPLICA,
    Assignment,
)
from headrace.testing import until
from headrace_parameters.core.exchange import Push
from headrace_parameters.node_report import report_of
from headrace_parameters.replication.replicated import CONFIRM_S
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)
from tests.services.parameters.replica_pair import ASYNC, REPLICA, Processes, cut_off, primary, replica


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
    (silent,) = report_of(first.table.all()).silent_replicas
    assert (silent.store, silent.term, silent.replica) == (NAME, 1, second.channel.address)
    assert silent.silence.ToTimedelta().total_seconds() >= CONFIRM_S


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
