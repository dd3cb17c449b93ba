"""A worker that is much slower than the others: it is named, and replaced if the job says so."""

from dataclasses import replace

from headrace_scheduler.core.events import JobSubmitted, TaskState
from headrace_scheduler.core.jobs import JobState, Progress
from tests.unit.scheduler.test_elastic_jobs import node_of, started, told
from tests.unit.scheduler.world import World, cluster


def take(world: World, rank: int, seconds: float) -> None:
    """Let a worker of job `a` report how long its part of a step takes."""
    progress = Progress(10, 100, "training", {"own_step_s": seconds})
    world.change(f"a-1-train-{rank}", state=TaskState.RUNNING, progress=progress)


def run(training: int, factor: float) -> World:
    """Run job `a` with three workers, of which it needs two."""
    wished = replace(cluster().submit("a"), workers=3, min_workers=2, straggler_factor=factor)
    world = cluster(training=training, parameters=1)
    world.handle(JobSubmitted(replace(wished, state=JobState.QUEUED, members=(), attempt=0)))
    world.deliver()
    for rank in range(3):
        world.run(f"a-1-train-{rank}")
    return world


def test_a_straggler_is_named_once() -> None:
    world = run(training=3, factor=0.0)
    for rank, seconds in enumerate((0.1, 0.1, 0.25)):
        take(world, rank, seconds)
    assert world.job("a").message == "attempt 1 runs"

    take(world, 2, 1.0)

    said = f"worker 2 on {node_of(world, 2)} takes 10.0 times as long for a step as the others"
    assert (world.job("a").message, world.job("a").straggler) == (said, 2)
    for seconds in (1.2, 0.1, 1.2):
        take(world, 2, seconds)
        assert world.job("a").message == said, "a message for each report would be a write for each"
    assert len(world.job("a").tasks) == 3


def test_a_straggler_is_replaced_on_another_node_if_the_job_says_so() -> None:
    world = run(training=3, factor=5.0)
    slow = node_of(world, 2)
    for rank, seconds in enumerate((0.1, 0.1, 0.3)):
        take(world, rank, seconds)
    assert [task.index for task in world.job("a").tasks] == [0, 1, 2]

    take(world, 2, 1.0)
    world.deliver()

    assert told(world) == {(1, (0, 1))}
    assert f"worker 2 is gone: worker 2 on {slow} takes 10.0 times as long" in world.job("a").message
    assert world.nodes[slow].active == 0
    world.pass_time(5)
    assert started(world.deliver()) == [], "there is no other node"
    world.start("training-9", world.nodes[slow].kind)
    (start,) = started(world.deliver())
    assert (start.rank, start.target.node) == (3, "nodes/training-9")


def test_a_straggler_is_kept_if_too_few_would_be_left() -> None:
    world = run(training=3, factor=5.0)
    world.fail("a-1-train-0", "TASK_CRASHED")
    take(world, 1, 0.1)
    take(world, 2, 1.0)
    assert [task.index for task in world.job("a").tasks] == [1, 2]
    assert "worker 2 on" in world.job("a").message


def test_steps_of_milliseconds_tell_nothing() -> None:
    world = run(training=3, factor=2.0)
    for rank, seconds in enumerate((0.001, 0.001, 0.015)):
        take(world, rank, seconds)
    assert world.job("a").message == "attempt 1 runs"
    assert len(world.job("a").tasks) == 3
