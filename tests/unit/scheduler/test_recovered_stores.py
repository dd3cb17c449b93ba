"""Parameter nodes that come back with the stores of the process before: whose job goes on, and what is cleaned up."""

from headrace_scheduler.core.commands import DeleteStore
from headrace_scheduler.core.events import JobCancelled
from headrace_scheduler.core.jobs import JobState
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster

JOB = f"{PROJECT}/jobs/a"
STORE = f"{PROJECT}/stores/a"


def holder(world: World, index: int) -> str:
    """Return the id of the node that holds a shard of the job."""
    return world.job("a").stores[index].node.removeprefix("nodes/")


def test_a_job_whose_shard_is_back_goes_on_in_the_same_attempt() -> None:
    world = cluster()
    world.running("a", workers=2, shards=2)
    node = world.restart(holder(world, 1), recovers=True)
    job = world.job("a")
    assert (job.state, job.attempt) == (JobState.RUNNING, 1)
    assert job.message == f"attempt 1 goes on: node {node.name} was restarted and has shard 1 at version 7"
    assert job.stores[1].incarnation == node.incarnation
    assert world.deliver() == [], "nothing is asked of anyone: the workers repeat what was interrupted"


def test_a_job_goes_on_when_all_its_shards_are_back() -> None:
    world = cluster()
    world.running("a", workers=2, shards=2)
    for index in (0, 1):
        world.restart(holder(world, index), recovers=True)
    assert world.job("a").attempt == 1
    world.succeed("a-1-train-1")
    world.succeed("a-1-train-0", "v")
    assert world.job("a").state is JobState.SUCCEEDED
    assert {type(command) for command in world.deliver()} == {DeleteStore}
    assert not any(node.stores for node in world.nodes.values())


def test_a_job_is_queued_again_when_one_of_its_shards_is_back_and_the_other_is_not() -> None:
    world = cluster(parameters=3)
    world.running("a", workers=2, shards=2)
    first, second = holder(world, 0), holder(world, 1)
    world.restart(first, recovers=True)
    world.restart(second)
    assert world.job("a").state is JobState.QUEUED
    world.pass_time(LEASE_S)
    world.deliver()
    assert world.job("a").attempt == 2
    assert all(epoch == 2 for node in world.nodes.values() for epoch in node.stores.values())


def test_a_shard_that_was_placed_and_never_made_costs_the_attempt() -> None:
    world = cluster(training=1, parameters=1)
    world.submit("a")
    world.restart("parameters-0", recovers=True)
    assert world.job("a").state is JobState.QUEUED
    world.pass_time(LEASE_S)
    world.deliver()
    assert world.nodes["parameters-0"].stores == {STORE: 2}


def test_a_shard_that_is_back_at_another_address_costs_the_attempt_and_is_deleted() -> None:
    world = cluster(parameters=1)
    world.running("a")
    world.restart("parameters-0", recovers=True, port=2)
    job = world.job("a")
    assert job.state is JobState.QUEUED
    assert "at another address" in job.message
    assert DeleteStore in [type(command) for command in world.deliver()]
    world.pass_time(LEASE_S)
    world.deliver()
    assert world.nodes["parameters-0"].stores == {STORE: 2}


def test_a_shard_that_is_back_after_its_lease_has_ended_is_deleted() -> None:
    world = cluster(parameters=2)
    world.running("a")
    name = holder(world, 0)
    world.nodes[name].frozen = True
    world.pass_time(LEASE_S + 2)
    world.deliver()
    world.restart(name, recovers=True)
    world.deliver()
    assert world.job("a").attempt == 2
    assert all(epoch == 2 for node in world.nodes.values() for epoch in node.stores.values())
    assert world.job("a").remnants == ()


def test_a_shard_that_is_back_after_its_job_was_cancelled_is_deleted() -> None:
    world = cluster()
    world.running("a")
    world.handle(JobCancelled(JOB))
    world.restart(holder(world, 0), recovers=True)
    world.deliver()
    assert world.job("a").state is JobState.CANCELLED
    assert not any(node.stores for node in world.nodes.values())


def test_a_node_that_comes_back_while_the_scheduler_is_away_keeps_its_job_going() -> None:
    world = cluster()
    world.running("a")
    name = holder(world, 0)
    node = world.nodes[name]
    node.frozen = True
    world.restart_scheduler()
    world.restart(name, recovers=True)
    for training in ("training-0", "training-1"):
        world.report(training)
    assert (world.job("a").state, world.job("a").attempt) == (JobState.RUNNING, 1)
