"""Jobs whose shards join and leave while they train: what there is and what shall be agree in the end, whoever dies meanwhile."""

import pytest

from headrace.errors import FailedPrecondition, NotFound
from headrace_scheduler.core.commands import CreateStore, DeleteStore, Reshard, SetMembers, StartTask
from headrace_scheduler.core.events import CommandDone, JobCancelled, JobResharded
from headrace_scheduler.core.jobs import Failure, Job, JobState
from headrace_scheduler.core.resharding import PAUSE_S
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster

NAME = f"{PROJECT}/jobs/a"


def reshard(world: World, shards: int) -> Job:
    world.handle(JobResharded(NAME, shards))
    return world.job("a")


def running(shards: int = 1, parameters: int = 3, workers: int = 1, **more: int) -> World:
    world = cluster(training=workers, parameters=parameters)
    world.running("a", workers=workers, shards=shards, **more)
    return world


def requests_of(world: World) -> list[Reshard]:
    return [issued.command for issued in world.pending if isinstance(issued.command, Reshard)]


def until_asked(world: World) -> Reshard:
    """Carry out all commands but the request to move the values."""
    for issued in list(world.pending):
        if not isinstance(issued.command, Reshard):
            world.pending.remove(issued)
            world._answer(issued)
    (request,) = requests_of(world)
    return request


def held_by(world: World) -> dict[str, int]:
    """Say which node has a shard of the job's store, and which."""
    return {node.name: node.shards[store] for node in world.nodes.values() for store in node.stores}


def test_shards_are_made_before_values_move_and_the_job_then_has_them() -> None:
    world = running(shards=1)
    assert "makes shards on parameters-1, parameters-2" in reshard(world, 3).message

    commands = world.deliver()

    made = [command for command in commands if isinstance(command, CreateStore)]
    assert [(command.index, command.shards, command.joins, command.snapshots) for command in made] == [
        (1, 3, True, ()),
        (2, 3, True, ()),
    ]
    (asked,) = [command for command in commands if isinstance(command, Reshard)]
    assert commands.index(asked) > max(map(commands.index, made))
    assert (asked.target.node, asked.map_epoch, asked.next) == ("nodes/parameters-0", 1, (0, 1, 2))
    assert (asked.shards, asked.add, asked.remove) == (
        ("parameters-0:1",),
        ("parameters-1:1", "parameters-2:1"),
        (),
    )
    job = world.job("a")
    assert [store.index for store in job.stores] == [0, 1, 2]
    assert (job.state, job.attempt, job.message) == (JobState.RUNNING, 1, "attempt 1 goes on with 3 shards")


def test_shards_that_are_not_needed_are_ended_once_their_values_are_elsewhere() -> None:
    world = running(shards=3)
    reshard(world, 1)

    commands = world.deliver()

    moved = next(place for place, command in enumerate(commands) if isinstance(command, Reshard))
    ended = [command.index for command in commands[moved:] if isinstance(command, DeleteStore)]
    assert ended == [1, 2]
    assert held_by(world) == {"parameters-0": 0}
    assert not world.job("a").remnants


def test_shards_go_up_and_down_again_and_their_nodes_are_used_again() -> None:
    world = running(shards=1)
    for shards in (2, 1, 3, 2):
        reshard(world, shards)
        world.deliver()
        assert len(held_by(world)) == len(world.job("a").stores) == shards
    assert world.job("a").map_epoch == 5


def test_workers_that_come_later_are_told_the_shards_that_there_are() -> None:
    world = cluster(training=2, parameters=2)
    world.running("a", workers=2, shards=1, min_workers=1)
    reshard(world, 2)
    world.deliver()
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.pass_time(1)

    started = [command for command in world.deliver() if isinstance(command, StartTask)]

    assert [command.shards for command in started] == [("parameters-0:1", "parameters-1:1")]


def test_a_change_waits_for_nodes_and_is_made_when_they_come() -> None:
    world = running(shards=1, parameters=1)
    assert "waits for 1 more parameter node with a free slot" in reshard(world, 2).message
    world.deliver()
    assert len(world.job("a").stores) == 1

    world.start("parameters-9", world.nodes["parameters-0"].kind)
    world.deliver()

    assert held_by(world) == {"parameters-0": 0, "parameters-9": 1}


def test_a_job_that_waits_has_the_shards_it_was_told_last_from_its_start() -> None:
    world = cluster(training=0, parameters=2)
    world.submit("a", shards=1)
    assert reshard(world, 2).message == "queued; will have 2 shards"
    world.start("training-0", next(iter(running().nodes.values())).kind)
    world.deliver()

    assert held_by(world) == {"parameters-0": 0, "parameters-1": 1}


def test_a_job_that_starts_is_changed_once_all_its_workers_run() -> None:
    world = cluster(parameters=2)
    world.submit("a", shards=1)
    world.deliver()
    assert "as soon as all its workers run" in reshard(world, 2).message
    assert held_by(world) == {"parameters-0": 0}

    world.run("a-1-train-0")
    world.deliver()

    assert held_by(world) == {"parameters-0": 0, "parameters-1": 1}


def test_a_scheduler_that_dies_in_the_middle_asks_the_same_again() -> None:
    world = running(shards=1)
    reshard(world, 2)
    asked = until_asked(world)
    world.nodes["parameters-0"].perform(asked)  # it was carried out, and nobody heard of it
    world.restart_scheduler()

    again = until_asked(world)
    world.deliver()

    assert again == asked
    assert len(world.job("a").stores) == 2


def test_a_request_without_a_clear_answer_is_repeated() -> None:
    world = running(shards=1)
    reshard(world, 2)
    asked = until_asked(world)
    (issued,) = world.pending
    world.pending.clear()
    world.handle(CommandDone(issued, Failure("DEADLINE_EXCEEDED", "no answer in time")))
    assert world.job("a").message == "attempt 1 goes from 1 to 2 shards: not yet: no answer in time"

    world.pass_time(2)

    assert requests_of(world) == [asked]


def test_a_shard_that_has_no_room_leaves_the_job_with_those_it_has() -> None:
    world = running(shards=1)
    reshard(world, 2)
    until_asked(world)
    (issued,) = world.pending
    world.pending.clear()
    world.handle(CommandDone(issued, Failure("QUOTA_EXCEEDED", "no room")))
    world.deliver()

    job = world.job("a")
    assert (job.shards, len(job.stores), job.message) == (1, 1, "attempt 1 stays with 1 shard: no room")
    assert held_by(world) == {"parameters-0": 0}


def test_a_shard_that_is_killed_before_it_joined_is_replaced_on_another_node() -> None:
    world = running(shards=1)
    reshard(world, 2)
    until_asked(world)
    world.pending.clear()
    world.nodes["parameters-1"].frozen = True
    world.pass_time(LEASE_S + 1)
    assert "begins again: node parameters-1 was lost" in world.job("a").message
    world.pass_time(PAUSE_S)
    world.deliver()

    job = world.job("a")
    assert job.attempt == 1
    assert [(store.node, store.index) for store in job.stores] == [
        ("nodes/parameters-0", 0),
        ("nodes/parameters-2", 2),
    ]


def test_values_that_were_lost_with_a_shard_that_had_joined_cost_the_attempt() -> None:
    """It took over its part, but died before anybody heard of it: the next plan meets another map."""
    world = running(shards=1)
    reshard(world, 2)
    asked = until_asked(world)
    world.nodes["parameters-0"].perform(asked)
    world.pending.clear()
    world.restart("parameters-1")
    world.pass_time(PAUSE_S + 1)
    world.deliver()
    world.pass_time(2)
    world.deliver()

    job = world.job("a")
    assert job.attempt == 2
    assert len(job.stores) == 2, "as was wished"


def test_an_answer_that_belongs_to_a_plan_of_before_costs_the_attempt() -> None:
    world = running(shards=1)
    reshard(world, 2)
    until_asked(world)
    (issued,) = world.pending
    world.pending.clear()
    world.restart("parameters-1")

    world.handle(CommandDone(issued))

    assert "a shard that has taken over values is gone" in world.job("a").message
    assert world.job("a").state is JobState.QUEUED


def test_a_shard_that_has_values_and_is_lost_in_the_middle_costs_an_attempt_which_begins_with_as_many_as_wished() -> (
    None
):
    world = running(shards=2, parameters=4)
    world.checkpoint("a-1-train-0", step=7, shards=2)
    reshard(world, 3)
    until_asked(world)
    world.restart("parameters-0")
    world.pass_time(2)
    made = [command for command in world.deliver() if isinstance(command, CreateStore)]

    assert [(command.epoch, command.shards, len(command.snapshots), command.joins) for command in made] == [
        (2, 3, 2, False)
    ] * 3


def test_values_move_only_between_shards_that_know_the_same_members() -> None:
    world = cluster(training=2, parameters=2)
    world.running("a", workers=2, shards=1, min_workers=1)
    reshard(world, 2)
    until_asked(world)
    (issued,) = world.pending
    world.pending.clear()
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.handle(CommandDone(issued, Failure("FAILED_PRECONDITION", "not at one point")))
    world.pass_time(2)
    told = [issued for issued in world.pending if isinstance(issued.command, SetMembers)]
    assert told
    assert not requests_of(world)

    world.deliver()

    assert len(world.job("a").stores) == 2


def test_a_job_that_is_cancelled_in_the_middle_leaves_nothing_behind() -> None:
    world = running(shards=1)
    reshard(world, 3)
    until_asked(world)
    world.pending.clear()
    world.handle(JobCancelled(NAME))
    world.deliver()
    world.pass_time(2)
    world.deliver()

    assert held_by(world) == {}
    assert world.job("a").state is JobState.CANCELLED


def test_another_wish_takes_the_place_of_one_that_waits_for_nodes() -> None:
    world = running(shards=1, parameters=2)
    reshard(world, 5)
    reshard(world, 2)
    world.deliver()

    assert len(world.job("a").stores) == 2


def test_what_cannot_be_is_refused() -> None:
    world = running(shards=1)
    with pytest.raises(NotFound):
        world.handle(JobResharded(f"{PROJECT}/jobs/b", 2))
    world.handle(JobCancelled(NAME))
    with pytest.raises(FailedPrecondition, match="only a job that waits or runs"):
        reshard(world, 2)
