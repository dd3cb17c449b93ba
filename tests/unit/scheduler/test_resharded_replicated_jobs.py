"""Jobs with replicas whose shards join and leave while they train: each shard is in two processes in the end, whichever was lost meanwhile."""

from collections.abc import Callable

import pytest

from headrace_scheduler.core.commands import Command, CreateStore, DeleteStore, Reshard
from headrace_scheduler.core.events import JobResharded
from tests.unit.scheduler.replicated_job import JOB, STORE, goes_on, node_of
from tests.unit.scheduler.simulated_node import SimulatedNode
from tests.unit.scheduler.world import LEASE_S, World, cluster


def running(shards: int = 1, parameters: int = 6) -> World:
    world = cluster(training=1, parameters=parameters)
    world.running("a", shards=shards, replicated=True)
    share_maps(world)
    catch_up(world)
    return world


def share_maps(world: World) -> None:
    """Let every process know of a change of the shards that any has led, as those of a store do."""
    maps = next(iter(world.nodes.values())).maps
    for node in world.nodes.values():
        node.maps = maps


def catch_up(world: World) -> None:
    """Let every replica that a primary knows of have all that that has."""
    job = world.job("a")
    for store in job.primaries:
        replica = job.replica_of(store)
        for node in [node_of(world, store), node_of(world, replica)] if replica else []:
            if STORE in node.tenures:
                node.tenures[STORE] = node.tenures[STORE].caught_up()


def settle(world: World) -> list[Command]:
    done: list[Command] = []
    for _ in range(10):
        done += world.deliver()
        share_maps(world)
        catch_up(world)
        world.pass_time(LEASE_S)
    return done


def reshard(world: World, shards: int) -> None:
    world.handle(JobResharded(JOB, shards))


def until_asked(world: World) -> Reshard:
    """Carry out all commands but the request to move the values."""
    for issued in list(world.pending):
        if not isinstance(issued.command, Reshard):
            world.pending.remove(issued)
            world._answer(issued)
    catch_up(world)
    (asked,) = [issued.command for issued in world.pending if isinstance(issued.command, Reshard)]
    return asked


def check_pairs(world: World, shards: int) -> None:
    """Each shard is in two processes, and nothing else is left anywhere."""
    job = goes_on(world)
    assert (len(job.stores), len(job.replicas), job.remnants, job.resharding) == (shards, shards, (), None)
    holding = [node for node in world.nodes.values() if STORE in node.stores]
    assert len(holding) == 2 * shards
    assert {node.name for node in holding} == {
        node_of(world, each).name for each in (*job.stores, *job.replicas)
    }


def test_a_shard_that_joins_is_made_in_two_processes_before_values_move() -> None:
    world = running()
    reshard(world, 2)

    commands = world.deliver()

    made = [command for command in commands if isinstance(command, CreateStore)]
    assert [(each.index, each.shards, each.joins) for each in made] == [(1, 2, True)] * 2
    primary, replica = sorted(made, key=lambda each: not (each.assignment and each.assignment.primary))
    assert primary.assignment
    assert primary.assignment.replica == replica.target.address
    (asked,) = [command for command in commands if isinstance(command, Reshard)]
    assert commands.index(asked) > max(map(commands.index, made))
    assert (asked.add, asked.next) == ((primary.target.address,), (0, 1))
    check_pairs(world, 2)


def test_a_shard_that_is_not_needed_is_ended_in_both_processes() -> None:
    world = running(shards=2)
    reshard(world, 1)

    ended = [command for command in world.deliver() if isinstance(command, DeleteStore)]

    assert len(ended) == 2
    check_pairs(world, 1)


def test_a_change_waits_for_nodes_for_both_processes() -> None:
    world = running(parameters=3)
    reshard(world, 2)
    assert "waits for 2 more parameter nodes" in world.job("a").message

    world.start("parameters-9", world.nodes["parameters-0"].kind)
    settle(world)

    check_pairs(world, 2)


def test_a_new_replica_of_a_store_whose_shards_have_changed_may_have_any_id() -> None:
    world = running()
    reshard(world, 3)
    settle(world)
    reshard(world, 1)
    settle(world)
    reshard(world, 2)
    settle(world)
    job = world.job("a")
    world.restart(node_of(world, job.replica_of(job.stores[1])).name)

    made = [command for command in settle(world) if isinstance(command, CreateStore)]

    assert [(each.index, each.joins) for each in made] == [(3, True)]
    check_pairs(world, 2)


def loser(shard: int, *, replica: bool) -> Callable[[World], SimulatedNode]:
    def find(world: World) -> SimulatedNode:
        job = world.job("a")
        store = next(store for store in job.primaries if store.index == shard)
        return node_of(world, job.replica_of(store) if replica else store)

    return find


@pytest.mark.parametrize("decided", [False, True], ids=["not decided", "decided, and nobody heard of it"])
@pytest.mark.parametrize("replica", [False, True], ids=["primary", "replica"])
@pytest.mark.parametrize("shard", [0, 1], ids=["stays", "joins"])
@pytest.mark.parametrize("how", ["killed", "unheard"])
def test_any_process_that_is_lost_while_values_move_costs_neither_the_attempt_nor_the_change(
    shard: int, replica: bool, decided: bool, how: str
) -> None:
    world = running()
    reshard(world, 2)
    asked = until_asked(world)
    if decided:
        node_of(world, world.job("a").stores[0]).perform(asked)
    world.pending.clear()
    world.restart_scheduler()
    lost = loser(shard, replica=replica)(world)
    if how == "killed":
        world.restart(lost.name)
    else:
        lost.frozen = True
        world.pass_time(LEASE_S + 1)
    share_maps(world)
    settle(world)
    lost.frozen = False
    settle(world)

    check_pairs(world, 2)
