"""A job whose shards are in two processes each, and who they are."""

from headrace_scheduler.core.commands import Assign, Assignment, Command, CreateStore
from headrace_scheduler.core.jobs import Job, JobState, Member
from tests.unit.scheduler.simulated_node import SimulatedNode
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster

JOB = f"{PROJECT}/jobs/a"
STORE = f"{PROJECT}/stores/a"


def replicated(shards: int = 1, spare: int = 1) -> World:
    """Start a job with one worker, and so many more parameter nodes than it needs."""
    world = cluster(training=1, parameters=2 * shards + spare)
    world.running("a", shards=shards, replicated=True)
    catch_up(world)
    return world


def node_of(world: World, member: Member | None) -> SimulatedNode:
    assert member
    return world.nodes[member.node.removeprefix("nodes/")]


def primary(world: World, shard: int = 0) -> SimulatedNode:
    return node_of(world, world.job("a").stores[shard])


def replica(world: World, shard: int = 0) -> SimulatedNode:
    job = world.job("a")
    return node_of(world, job.replica_of(job.stores[shard]))


def catch_up(world: World) -> None:
    """Let every replica that its primary knows of have all that that has."""
    for shard, store in enumerate(world.job("a").stores):
        if world.job("a").replica_of(store):
            for node in (primary(world, shard), replica(world, shard)):
                node.tenures[STORE] = node.tenures[STORE].caught_up()


def lose(world: World, node: SimulatedNode) -> None:
    """Let nothing be heard of a process until its lease has ended."""
    node.frozen = True
    world.pass_time(LEASE_S + 1)


def goes_on(world: World) -> Job:
    job = world.job("a")
    assert (job.state, job.attempt) == (JobState.RUNNING, 1), job.message
    return job


def assignments(commands: list[Command]) -> list[tuple[str, Assignment]]:
    return [
        (command.target.address, command.assignment)
        for command in commands
        if isinstance(command, Assign | CreateStore) and command.assignment
    ]
