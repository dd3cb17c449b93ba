"""Replicas of which their primaries hear nothing, while the scheduler hears both."""

from headrace_parameters.core.tenure import Role, Tenure
from headrace_scheduler.core.commands import Assignment
from headrace_scheduler.core.jobs import JobState
from headrace_scheduler.core.replicas import PATIENCE_S
from tests.unit.scheduler.replicated_job import STORE, assignments, goes_on, primary, replica, replicated
from tests.unit.scheduler.world import World, cluster


def hear_nothing(world: World, shard: int = 0) -> None:
    """Cut a primary and its replica from each other; the scheduler reaches both."""
    node = primary(world, shard)
    node.unheard[STORE] = node.tenures[STORE].term, world.now


def test_a_replica_that_is_silent_to_its_primary_for_long_is_given_up_though_both_are_attached() -> None:
    world = replicated()
    first, second = primary(world), replica(world)
    hear_nothing(world)
    world.pass_time(PATIENCE_S)
    assert replica(world) is second

    world.pass_time(1)

    what = f"{second.name} has confirmed nothing to {first.name} for 11 s: no route"
    assert goes_on(world).message.endswith(f"is served by one process until it has another: {what}")
    assert assignments(world.deliver()) == [(first.address, Assignment(2, True))]
    assert STORE not in second.stores
    world.pass_time(1)
    world.deliver()
    assert primary(world) is first
    assert replica(world) not in (first, second), "there is a node that it may reach"


def test_what_a_primary_says_of_a_former_replica_is_not_held_against_the_next_one() -> None:
    world = replicated()
    hear_nothing(world)
    world.pass_time(PATIENCE_S + 1)
    world.deliver()
    world.pass_time(1)
    world.deliver()
    third = replica(world)

    world.pass_time(PATIENCE_S + 1)  # it goes on to speak of term 1

    assert replica(world) is third


def test_a_node_with_a_silent_replica_gets_another_if_there_is_no_other_node() -> None:
    world = replicated(spare=0)
    second = replica(world)
    hear_nothing(world)
    world.pass_time(PATIENCE_S + 1)
    primary(world).unheard.clear()
    world.deliver()
    world.pass_time(1)
    world.deliver()
    assert replica(world) is second
    assert second.tenures[STORE] == Tenure(3, Role.REPLICA)


def test_a_replica_that_is_silent_before_the_job_runs_may_still_be_in_the_making() -> None:
    world = cluster(training=1, parameters=3)
    world.submit("a", replicated=True)
    world.deliver()
    hear_nothing(world)
    world.pass_time(PATIENCE_S + 1)
    assert (world.job("a").state, world.job("a").attempt) == (JobState.STARTING, 1)
    assert len(world.job("a").replicas) == 1
