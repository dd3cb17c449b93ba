"""Jobs whose shards are in two processes each: what they do without one, and how they get another."""

from headrace_parameters.core.tenure import Role, Tenure
from headrace_scheduler.core import explain
from headrace_scheduler.core.commands import Assignment, CreateStore, DeleteStore, StartTask
from headrace_scheduler.core.events import JobCancelled
from headrace_scheduler.core.jobs import JobState
from headrace_scheduler.core.nodes import NodeKind
from tests.unit.scheduler.replicated_job import (
    JOB,
    STORE,
    assignments,
    catch_up,
    goes_on,
    lose,
    primary,
    replica,
    replicated,
)
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster


def test_each_shard_is_made_in_two_processes_and_the_worker_is_told_of_both() -> None:
    world = cluster(training=1, parameters=4)
    world.submit("a", shards=2, replicated=True)
    commands = world.deliver()
    job = world.job("a")
    assert [store.index for store in job.stores] == [store.index for store in job.replicas] == [0, 1]
    assert len({member.node for member in (*job.stores, *job.replicas)}) == 4
    replicas = tuple(store.address for store in job.replicas)
    assert dict(assignments(commands)) == {
        **{
            store.address: Assignment(1, True, found)
            for store, found in zip(job.stores, replicas, strict=True)
        },
        **dict.fromkeys(replicas, Assignment(1, False)),
    }
    (start,) = [command for command in commands if isinstance(command, StartTask)]
    assert (start.shards, start.replicas) == (tuple(store.address for store in job.stores), replicas)


def test_a_job_waits_until_there_is_a_node_for_every_replica() -> None:
    world = cluster(training=1, parameters=3)
    world.submit("a", shards=2, replicated=True)
    why = explain.summary(world.machine.tables, world.job("a"), world.now, LEASE_S)
    assert why.startswith("waits: needs 4 free parameter nodes, 3 are free")
    world.start("parameters-3", NodeKind.PARAMETERS)
    world.deliver()
    assert len(world.job("a").replicas) == 2


def on_machines(*machines: str) -> World:
    """Make a world with a parameter node on each."""
    world = cluster(training=1, parameters=0)
    for number, machine in enumerate(machines):
        world.start(f"parameters-{number}", NodeKind.PARAMETERS, machine=machine)
    return world


def test_the_processes_of_a_shard_are_on_two_machines_where_there_are_two() -> None:
    world = on_machines("one", "one", "one", "two", "two")
    job = world.submit("a", shards=2, replicated=True)
    pairs = [(store.machine, other.machine) for store, other in zip(job.stores, job.replicas, strict=True)]
    assert pairs == [("one", "two"), ("two", "one")]
    assert "for want of another" not in job.message


def test_a_job_says_which_shards_have_both_processes_on_one_machine() -> None:
    world = on_machines("one", "one", "one", "two")
    job = world.submit("a", shards=2, replicated=True)
    assert job.message.endswith(
        "; the replica of shard 0 is on the machine of its primary, for want of another"
    )


def test_the_replica_of_a_primary_that_is_lost_serves_and_gets_a_replica_itself() -> None:
    world = replicated()
    first, second = primary(world), replica(world)
    lose(world, first)
    job = goes_on(world)
    assert job.message.startswith(f"attempt 1 goes on: shard 0 is served by its replica on {second.name}: ")

    commands = world.deliver()

    (third,) = set(world.nodes) - {first.name, second.name, "training-0"}
    assert assignments(commands) == [
        (second.address, Assignment(2, True)),
        (world.nodes[third].address, Assignment(3, False)),
        (second.address, Assignment(3, True, world.nodes[third].address)),
    ]
    assert goes_on(world).message == f"attempt 1 goes on: shard 0 gets a new replica on {third}"


def test_each_of_many_losses_is_survived_once_the_new_replica_has_caught_up() -> None:
    world = replicated(shards=2, spare=0)
    for round_ in range(6):
        world.restart((primary if round_ % 2 else replica)(world, round_ % 2).name)
        world.pass_time(32)  # a pause before the next replica, in which the shard is in one process
        world.deliver()
        catch_up(world)
    assert len(goes_on(world).replicas) == 2


def test_a_primary_whose_replica_is_lost_serves_alone_before_there_is_another() -> None:
    world = replicated()
    first, second = primary(world), replica(world)
    lose(world, second)
    assert goes_on(world).message.startswith("attempt 1 goes on: shard 0 has lost its replica")
    assert assignments(world.deliver()) == [(first.address, Assignment(2, True))]
    world.pass_time(1)
    assert [assignment.term for _, assignment in assignments(world.deliver())] == [3, 3]
    assert primary(world) is first


def test_without_a_node_for_a_replica_the_shard_is_in_one_process_until_there_is_one() -> None:
    world = replicated(spare=0)
    first = primary(world)
    lose(world, first)
    world.deliver()
    world.pass_time(LEASE_S)
    assert goes_on(world).replicas == ()
    first.frozen = False
    world.pass_time(2)
    world.deliver()
    world.pass_time(1)
    world.deliver()
    assert replica(world).name == first.name
    assert first.tenures[STORE].role is Role.REPLICA, "what it had before is deleted first"


def test_a_shard_that_has_lost_both_processes_costs_the_attempt() -> None:
    world = replicated(spare=2)
    world.checkpoint("a-1-train-0", 20, shards=1)
    first, second = primary(world), replica(world)
    for node in (first, second):
        node.frozen = True
    world.pass_time(LEASE_S + 1)
    assert world.job("a").state is JobState.QUEUED
    world.pass_time(LEASE_S)
    commands = world.deliver()
    job = world.job("a")
    assert (job.attempt, job.resume and job.resume.step) == (2, 20)
    made = {
        command.assignment.primary: command.snapshots
        for command in commands
        if isinstance(command, CreateStore) and command.assignment
    }
    assert made == {True: (f"{PROJECT}/artifacts/20-0",), False: ()}, (
        "a replica begins with what its primary has"
    )


def test_a_replica_that_has_not_caught_up_does_not_serve_and_the_attempt_is_over() -> None:
    world = replicated()
    lose(world, primary(world))
    world.deliver()  # the next replica is on its way
    lose(world, primary(world))
    world.deliver()
    job = world.job("a")
    assert job.state is JobState.QUEUED or job.attempt == 2
    assert not any(
        tenure.role is Role.PRIMARY
        for node in world.nodes.values()
        if not node.frozen
        for store, tenure in node.tenures.items()
        if node.stores[store] == 1
    )


def test_a_process_that_is_lost_before_the_job_runs_costs_the_attempt() -> None:
    for find in (primary, replica):
        world = cluster(training=1, parameters=3)
        world.submit("a", replicated=True)
        world.deliver()
        world.restart(find(world).name)
        assert world.job("a").state is JobState.QUEUED


def test_a_scheduler_that_is_killed_in_the_middle_tells_again_what_nobody_has_heard() -> None:
    world = replicated()
    first, second = primary(world), replica(world)
    lose(world, first)
    world.restart_scheduler()  # it has decided, and told nobody
    world.deliver()
    assert second.tenures[STORE].role is Role.PRIMARY
    world.restart_scheduler()
    catch_up(world)
    lose(world, second)
    world.restart_scheduler()
    world.deliver()
    goes_on(world)
    assert primary(world) not in (first, second)


def test_a_worker_that_may_have_been_told_where_the_shards_were_is_replaced() -> None:
    world = cluster(training=2, parameters=3)
    world.nodes["training-1"].frozen = True
    world.pass_time(LEASE_S + 1)
    world.submit("a", workers=2, min_workers=1, replicated=True)
    world.deliver()
    world.run("a-1-train-0")
    catch_up(world)
    world.nodes["training-1"].frozen = False
    world.pass_time(1)
    assert [task.index for task in goes_on(world).tasks] == [0, 1]
    world.restart(primary(world).name)
    assert [task.index for task in goes_on(world).tasks] == [0]
    world.pass_time(1)
    start = [command for command in world.deliver() if isinstance(command, StartTask)][-1]
    assert (start.rank, start.shards) == (2, (primary(world).address,))


def test_a_primary_that_has_outlived_its_process_serves_again_and_its_replica_begins_anew() -> None:
    world = replicated(spare=0)
    first, second = primary(world), replica(world)
    back = world.restart(first.name, recovers=True)
    commands = world.deliver()
    goes_on(world)
    assert assignments(commands)[0] == (back.address, Assignment(2, True))
    world.pass_time(1)
    world.deliver()
    assert (primary(world), replica(world)) == (back, second)
    assert second.tenures[STORE] == Tenure(3, Role.REPLICA)


def test_a_shard_both_of_whose_processes_were_killed_goes_on_from_their_disks() -> None:
    for names in (("parameters-0", "parameters-1"), ("parameters-1", "parameters-0")):
        world = replicated(spare=0)
        for name in names:
            world.restart(name, recovers=True)
        for _ in range(3):
            world.deliver()
            world.pass_time(1)
        goes_on(world)
        assert (primary(world).name, replica(world).name) == ("parameters-0", "parameters-1")
        assert primary(world).tenures[STORE].replica == replica(world).address


def test_a_primary_that_is_back_elsewhere_with_its_store_leaves_the_shard_to_its_replica() -> None:
    world = replicated(spare=0)
    first, second = primary(world), replica(world)
    world.restart(first.name, recovers=True, port=2)
    commands = world.deliver()
    goes_on(world)
    assert primary(world) is second
    assert DeleteStore in [type(command) for command in commands]


def test_a_job_that_ends_leaves_nothing_in_either_process() -> None:
    world = replicated(shards=2, spare=0)
    world.handle(JobCancelled(JOB))
    world.deliver()
    assert world.job("a").state.final
    assert not any(node.stores for node in world.nodes.values())
