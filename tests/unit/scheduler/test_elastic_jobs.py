"""Jobs whose workers come and go: what they do without one, and how they get another."""

from headrace_scheduler.core.commands import Command, CreateStore, SetMembers, SetRanks, StartTask, StopTask
from headrace_scheduler.core.jobs import JobState
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster

Members = tuple[int, tuple[int, ...]]  # generation, ranks


def told(world: World, job_id: str = "a") -> set[Members]:
    """What the shards of the job's present attempt know of its members; one entry if they agree."""
    store, epoch = f"{PROJECT}/stores/{job_id}", world.job(job_id).attempt
    return {
        node.members.get((store, epoch), (0, ())) for node in world.nodes.values() if store in node.stores
    }


def freeze(world: World, node: str) -> None:
    """Let a node's lease end."""
    world.nodes[node].frozen = True
    world.pass_time(LEASE_S + 1)


def node_of(world: World, rank: int, job_id: str = "a") -> str:
    (task,) = [task for task in world.job(job_id).tasks if task.index == rank]
    return task.node.removeprefix("nodes/")


def started(commands: list[Command]) -> list[StartTask]:
    return [command for command in commands if isinstance(command, StartTask)]


def test_a_job_goes_on_without_a_worker_that_is_lost_and_tells_every_shard() -> None:
    world = cluster(training=3, parameters=2)
    world.running("a", workers=3, shards=2, min_workers=2)
    freeze(world, node_of(world, rank=1))
    world.deliver()
    job = world.job("a")
    assert (job.state, job.attempt, [task.index for task in job.tasks]) == (JobState.RUNNING, 1, [0, 2])
    assert told(world) == {(1, (0, 2))}
    assert job.message.startswith(
        "attempt 1 goes on with 2 of 3 workers: worker 1 is gone: node training-1 was lost"
    )


def test_with_fewer_workers_than_it_needs_the_next_attempt_begins() -> None:
    world = cluster(training=3)
    world.running("a", workers=2, min_workers=2)
    world.fail("a-1-train-1", "TASK_CRASHED")
    assert world.job("a").state is JobState.QUEUED
    world.pass_time(1)
    world.deliver()
    assert world.job("a").attempt == 2
    assert (world.job("a").generation, world.job("a").first_workers) == (0, 2)


def test_a_job_that_needs_all_its_workers_ends_its_attempt_with_the_first() -> None:
    world = cluster(training=3)
    world.running("a", workers=3)
    world.fail("a-1-train-2", "TASK_CRASHED")
    assert world.job("a").state is JobState.QUEUED


def test_a_lost_worker_is_replaced_by_one_of_another_rank_that_joins_when_it_is_ready() -> None:
    world = cluster(training=3)
    world.running("a", workers=2, min_workers=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    assert started(world.deliver()) == [], "not at once: what crashed may crash again"
    world.pass_time(1)
    (start,) = started(world.deliver())
    assert (start.rank, start.epoch, start.task) == (2, 1, f"{PROJECT}/tasks/a-1-train-2")
    assert told(world) == {(1, (0,))}, "nobody waits for a worker that is being started"
    world.run("a-1-train-2")
    assert told(world) == {(1, (0,))}

    world.be_ready("a-1-train-2")
    world.deliver()

    assert told(world) == {(2, (0, 2))}
    assert world.job("a").message.startswith("attempt 1 goes on with 2 of 2 workers: worker 2 on training-")


def test_a_worker_that_is_lost_costs_no_attempt_but_longer_and_longer_pauses() -> None:
    world = cluster(training=2)
    world.submit("a", workers=2, attempts=1, min_workers=1)
    world.deliver()
    world.run("a-1-train-0")
    world.run("a-1-train-1")
    for rank in range(1, 8):
        world.be_ready(f"a-1-train-{rank}")
        world.fail(f"a-1-train-{rank}", "TASK_CRASHED")
        world.deliver()
        world.pass_time(30)
        world.deliver()
    job = world.job("a")
    assert (job.state, job.attempt, job.lost_workers) == (JobState.RUNNING, 1, 7)
    world.fail("a-1-train-8", "TASK_CRASHED")
    assert world.job("a").not_before == world.now + 30


def test_when_the_worker_that_leads_is_lost_the_next_one_does() -> None:
    world = cluster(training=2)
    world.running("a", workers=2, min_workers=1)
    world.checkpoint("a-1-train-0", step=20, shards=1)
    world.fail("a-1-train-0", "TASK_CRASHED")
    world.deliver()
    assert told(world) == {(1, (1,))}
    world.run("a-1-train-1", step=30)
    world.checkpoint("a-1-train-1", step=40, shards=1)
    job = world.job("a")
    assert job.progress is not None
    assert (job.progress.step, job.checkpoint and job.checkpoint.step) == (30, 40)

    world.succeed("a-1-train-1", "v")

    assert world.job("a").state is JobState.SUCCEEDED
    assert world.job("a").result is not None


def test_if_nobody_is_left_to_lead_after_the_last_step_the_next_attempt_begins() -> None:
    for order in ("done, then lost", "lost, then done"):
        world = cluster(training=2)
        world.running("a", workers=2, min_workers=1)
        if order == "done, then lost":
            world.succeed("a-1-train-1", led=False)
            world.fail("a-1-train-0", "TASK_CRASHED")
        else:
            world.fail("a-1-train-0", "TASK_CRASHED")
            world.succeed("a-1-train-1", led=False)
        assert world.job("a").state is JobState.QUEUED, order
        assert world.job("a").result is None


def test_a_job_begins_with_the_workers_it_needs_and_takes_more_when_there_is_room() -> None:
    world = cluster(training=1, parameters=1)
    world.submit("a", workers=3, min_workers=1)
    commands = world.deliver()
    (store,) = [command for command in commands if isinstance(command, CreateStore)]
    assert store.workers == 1
    assert len(started(commands)) == 1
    world.run("a-1-train-0")
    assert world.job("a").state is JobState.RUNNING

    for number in (1, 2, 3):
        world.start(f"training-{number}", world.nodes["training-0"].kind)
    starts = started(world.deliver())

    assert [start.rank for start in starts] == [1, 2]
    for rank in (1, 2):
        world.be_ready(f"a-1-train-{rank}")
    world.deliver()
    assert told(world) == {(2, (0, 1, 2))}


def test_a_job_that_waits_comes_before_one_that_would_grow() -> None:
    world = cluster(training=1, parameters=2)
    world.submit("a", workers=2, min_workers=1)
    world.deliver()
    world.run("a-1-train-0")
    world.submit("b")
    world.start("training-1", world.nodes["training-0"].kind)
    world.deliver()
    assert world.job("b").state is JobState.STARTING
    assert len(world.job("a").tasks) == 1


def test_a_zombie_is_stopped_when_its_node_comes_back() -> None:
    world = cluster(training=2)
    world.running("a", workers=2, min_workers=1)
    node = node_of(world, rank=1)
    freeze(world, node)
    world.deliver()
    world.nodes[node].frozen = False
    world.pass_time(2)
    assert any(isinstance(command, StopTask) and command.task.endswith("-1") for command in world.deliver())
    world.pass_time(LEASE_S)
    assert world.job("a").remnants == ()
    assert world.job("a").attempt == 1


def test_a_program_that_raises_ends_the_job_also_if_others_could_go_on() -> None:
    world = cluster(training=2)
    world.running("a", workers=2, min_workers=1)
    world.fail("a-1-train-1", "PROGRAM_FAILED")
    assert world.job("a").verdict is not None
    assert world.job("a").state in (JobState.CANCELLING, JobState.FAILED)


def test_a_scheduler_that_is_killed_tells_the_shards_again() -> None:
    world = cluster(training=2)
    world.running("a", workers=2, min_workers=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.restart_scheduler()
    commands = world.deliver()
    assert [command.generation for command in commands if isinstance(command, SetMembers)] == [1]
    world.restart_scheduler()
    assert not any(isinstance(command, SetMembers) for command in world.deliver())


def test_a_shard_that_was_recovered_is_told_again() -> None:
    world = cluster(training=2, parameters=1)
    world.running("a", workers=2, min_workers=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.deliver()
    world.restart("parameters-0", recovers=True)
    world.deliver()
    assert told(world) == {(1, (0,))}


def test_a_newcomer_that_is_not_ready_when_the_run_ends_is_stopped() -> None:
    world = cluster(training=2)
    world.running("a", workers=2, min_workers=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.pass_time(1)
    world.deliver()
    world.run("a-1-train-2")
    world.succeed("a-1-train-0", "v")
    world.deliver()
    assert world.job("a").state is JobState.SUCCEEDED
    assert world.job("a").settled


def heard(world: World, job_id: str = "a") -> dict[int, Members]:
    """What each task that is there knows of the members."""
    return {
        task.index: (told.generation, told.ranks)
        for task in world.job(job_id).tasks
        for node in world.nodes.values()
        if (told := node.ranks.get(task.resource))
    }


def test_without_shards_the_workers_are_told_who_they_are_and_who_leads() -> None:
    world = cluster(training=3, parameters=0)
    world.submit("a", workers=3, shards=0, min_workers=1)
    commands = world.deliver()
    assert {start.lead_task for start in started(commands)} == {""}, "its lead may change"
    assert heard(world) == dict.fromkeys((0, 1, 2), (1, (0, 1, 2)))
    for rank in range(3):
        world.run(f"a-1-train-{rank}")
    world.fail("a-1-train-0", "TASK_CRASHED")
    orders = [command for command in world.deliver() if isinstance(command, SetRanks)]
    assert heard(world) == dict.fromkeys((1, 2), (2, (1, 2)))
    assert {(order.lead.node, order.lead_task) for order in orders} == {
        (f"nodes/{node_of(world, 1)}", f"{PROJECT}/tasks/a-1-train-1")
    }
    assert world.job("a").attempt == 1
    assert "with 2 of 3 workers: worker 0 is gone" in world.job("a").message


def test_without_shards_too_a_new_worker_joins_when_it_is_ready() -> None:
    world = cluster(training=2, parameters=0)
    world.running("a", workers=2, shards=0, min_workers=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.pass_time(1)
    (start,) = started(world.deliver())
    assert (start.rank, start.workers, start.lead_task) == (2, 2, ""), "it is none of those that began"
    world.run("a-1-train-2")
    world.deliver()
    assert heard(world) == {0: (2, (0,))}

    world.be_ready("a-1-train-2")
    world.deliver()

    assert heard(world) == dict.fromkeys((0, 2), (3, (0, 2)))


def test_a_worker_that_is_lost_before_it_has_begun_is_not_waited_for() -> None:
    world = cluster(training=3, parameters=0)
    world.submit("a", workers=3, shards=0, min_workers=2)
    world.deliver()
    freeze(world, node_of(world, rank=2))
    world.deliver()
    assert heard(world) == dict.fromkeys((0, 1), (2, (0, 1)))


def test_whoever_is_told_later_is_told_the_same() -> None:
    world = cluster(training=3, parameters=0)
    world.running("a", workers=3, shards=0, min_workers=1)
    slow = world.nodes[node_of(world, 1)]
    slow.frozen = True  # for less than its lease
    world.fail("a-1-train-2", "TASK_CRASHED")
    world.deliver()
    assert heard(world) == {0: (2, (0, 1)), 1: (1, (0, 1, 2))}
    slow.frozen = False
    world.deliver()
    assert heard(world) == dict.fromkeys((0, 1), (2, (0, 1)))
