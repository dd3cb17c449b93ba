"""Jobs in the core: what follows from each event."""

from typing import Any

import pytest

from headrace.errors import AlreadyExists, FailedPrecondition, NotFound
from headrace_scheduler.core.commands import CreateStore, DeleteStore, StartTask, StopTask, Target
from headrace_scheduler.core.events import JobCancelled, JobDeleted, TaskState
from headrace_scheduler.core.explain import conditions
from headrace_scheduler.core.jobs import Best, Failure, JobState, Progress
from headrace_scheduler.core.nodes import NodeKind
from tests.unit.scheduler.world import PROJECT, World, cluster

JOB = f"{PROJECT}/jobs/a"


def test_a_job_gets_all_its_nodes_at_once_and_its_stores_before_its_tasks() -> None:
    world = cluster()
    assert world.submit("a", workers=2, shards=2).state is JobState.STARTING
    assert [type(issued.command) for issued in world.pending] == [CreateStore, CreateStore]
    commands = world.deliver()
    starts = [command for command in commands if isinstance(command, StartTask)]
    assert [start.task for start in starts] == [
        f"{PROJECT}/tasks/a-1-train-0",
        f"{PROJECT}/tasks/a-1-train-1",
    ]
    assert {start.shards for start in starts} == {("parameters-0:1", "parameters-1:1")}


def test_a_gang_that_does_not_fit_takes_no_node() -> None:
    world = cluster(training=1, parameters=2)
    job = world.submit("a", workers=2, shards=2)
    assert job.state is JobState.QUEUED
    assert job.members == ()
    assert not world.pending


def test_shards_need_as_many_parameter_nodes_however_many_slots_one_has() -> None:
    world = cluster(training=1, parameters=0)
    world.start("big", NodeKind.PARAMETERS, slots=8)
    assert world.submit("a", shards=2).state is JobState.QUEUED
    world.start("other", NodeKind.PARAMETERS)
    assert world.job("a").state is JobState.STARTING


def test_a_job_runs_when_all_its_tasks_run() -> None:
    world = cluster()
    world.submit("a", workers=2)
    world.deliver()
    world.run("a-1-train-0")
    assert world.job("a").state is JobState.STARTING
    world.run("a-1-train-1")
    assert world.job("a").state is JobState.RUNNING


def test_progress_is_rank_0s_with_the_throughput_of_all() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.change("a-1-train-0", progress=Progress(7, 100, "training", {"loss": 0.5, "samples_per_s": 30.0}))
    progress = world.job("a").progress
    assert progress is not None
    assert (progress.step, progress.metrics) == (7, {"loss": 0.5, "samples_per_s": 40.0})


def test_a_job_succeeds_with_rank_0s_result_when_every_rank_has_and_its_store_is_deleted() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.succeed("a-1-train-0", "projects/default/models/m/versions/1")
    assert world.job("a").state is JobState.RUNNING
    world.succeed("a-1-train-1")
    job = world.job("a")
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result.version == "projects/default/models/m/versions/1"
    assert [type(command) for command in world.deliver()] == [StopTask, DeleteStore]
    assert not any(node.stores for node in world.nodes.values())
    assert JOB not in world.machine.tables.jobs, "a settled job is in the database only"


def test_once_rank_0s_result_is_safe_nobody_waits_for_what_another_rank_still_does() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.succeed("a-1-train-0", "projects/default/models/m/versions/1")
    assert [type(command) for command in world.deliver()] == [StopTask, DeleteStore]
    assert world.nodes["training-1"].active == 0
    assert world.job("a").state is JobState.SUCCEEDED


def test_the_best_values_outlive_their_attempt_and_the_scheduler() -> None:
    """They may be newer than the checkpoint that the next attempt goes on from."""
    world = cluster()
    world.running("a", workers=1)
    best = Best(30, "accuracy", 0.9, f"{PROJECT}/artifacts/{'0' * 64}")
    world.change("a-1-train-0", best=best)
    assert world.job("a").best == best
    world.fail("a-1-train-0", "TASK_CRASHED")
    world.restart_scheduler()
    for name in world.nodes:
        world.attach(name)
    world.pass_time(1)
    starts = [command for command in world.deliver() if isinstance(command, StartTask)]
    assert [(start.epoch, start.best) for start in starts] == [(2, best)]


def test_a_program_that_raises_ends_the_job_at_once_with_its_failure() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.fail("a-1-train-1", "PROGRAM_FAILED")
    assert world.job("a").state is JobState.CANCELLING
    assert [type(command) for command in world.deliver()] == [StopTask, DeleteStore]
    job = world.job("a")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert (job.attempt, job.failure.reason) == (1, "PROGRAM_FAILED")


@pytest.mark.parametrize("reason", ["TASK_CRASHED", "UNAVAILABLE", "NOT_FOUND"])
def test_a_crash_costs_an_attempt(reason: str) -> None:
    world = cluster()
    world.running("a", workers=2)
    world.fail("a-1-train-1", reason)
    assert world.job("a").state is JobState.QUEUED
    world.deliver()
    world.pass_time(1)
    world.deliver()
    assert world.job("a").state is JobState.STARTING
    assert world.job("a").attempt == 2
    assert f"{PROJECT}/tasks/a-2-train-0" in world.nodes["training-0"].tasks


def test_attempts_run_out() -> None:
    world = cluster()
    world.submit("a", attempts=2)
    for attempt in (1, 2):
        world.pass_time(10)
        world.deliver()
        world.fail(f"a-{attempt}-train-0", "TASK_CRASHED")
    job = world.job("a")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.reason == "TASK_CRASHED"
    assert job.failure.message.endswith("(attempt 2 of 2)")


def crash(world: World, attempt: int, status: int = 1, **change: Any) -> None:
    failure = Failure("TASK_CRASHED", f"the task's process ended with status {status} and no result")
    world.pass_time(10)
    world.deliver()
    world.change(f"a-{attempt}-train-0", state=TaskState.FAILED, failure=failure, **change)


def test_a_program_that_crashes_twice_in_the_same_way_before_its_first_step_ends_the_job() -> None:
    world = cluster()
    world.submit("a")
    crash(world, 1)
    assert world.job("a").state is JobState.QUEUED
    crash(world, 2, progress=Progress(0, 100, "loading"))
    job = world.job("a")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.reason == "TASK_CRASHED"
    assert job.failure.message == (
        "the task's process ended with status 1 and no result, as in the attempt before, and neither made a step; "
        "correct the program, or give its node what it lacks, and submit it again"
    )


def test_crashes_in_two_ways_or_after_a_step_use_up_the_attempts() -> None:
    world = cluster()
    world.submit("a")
    crash(world, 1, status=1)
    crash(world, 2, status=2)
    crash(world, 3, status=2, progress=Progress(1, 100, "training"))
    crash(world, 4, status=2)
    assert world.job("a").state is JobState.QUEUED


def test_cancelling_a_queued_job_ends_it_at_once() -> None:
    world = cluster(training=0)
    world.submit("a")
    world.handle(JobCancelled(JOB))
    assert world.job("a").state is JobState.CANCELLED


def test_cancelling_a_running_job_stops_its_tasks_then_deletes_its_stores() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.handle(JobCancelled(JOB))
    assert world.job("a").state is JobState.CANCELLING
    assert [type(command) for command in world.deliver()] == [StopTask, StopTask, DeleteStore]
    assert world.job("a").state is JobState.CANCELLED


def test_a_task_stopped_behind_the_schedulers_back_costs_an_attempt() -> None:
    world = cluster()
    world.running("a")
    world.change("a-1-train-0", state=TaskState.STOPPED)
    assert world.job("a").state is JobState.QUEUED
    assert "was stopped on nodes/training-0" in world.job("a").message


def test_an_optimize_job_resolves_its_version_once() -> None:
    world = cluster(optimization=1)
    world.optimize("o")
    commands = world.deliver()
    assert [type(command).__name__ for command in commands] == ["ResolveVersion", "StartTask"]
    assert world.job("o").version == f"{PROJECT}/models/digits/versions/1"
    world.fail("o-1-optimize-0", "TASK_CRASHED")
    world.pass_time(1)
    assert [type(command).__name__ for command in world.deliver()] == ["StartTask"]


def test_a_name_is_taken_once_and_final_jobs_only_are_deleted() -> None:
    world = cluster(training=0)
    world.submit("a")
    with pytest.raises(AlreadyExists):
        world.submit("a")
    with pytest.raises(FailedPrecondition):
        world.handle(JobDeleted(JOB))
    with pytest.raises(NotFound):
        world.handle(JobCancelled(f"{PROJECT}/jobs/b"))


def test_a_deleted_job_is_forgotten_once_its_stores_are_gone() -> None:
    world = cluster()
    world.running("a")
    world.succeed("a-1-train-0")
    world.handle(JobDeleted(JOB))
    assert JOB in world.rows[2]
    world.deliver()
    assert JOB not in world.rows[2]
    assert not any(node.stores for node in world.nodes.values())


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(NotFound, match="pools/gpu"):
        cluster().submit("a", pool="pools/gpu")


def test_a_job_without_shards_needs_training_nodes_alone_and_every_rank_knows_where_rank_0_is() -> None:
    world = cluster(training=2, parameters=0)
    job = world.submit("a", workers=2, shards=0)
    assert [condition.id for condition in conditions(world.machine.tables, job, world.now, 6.0)] == [
        "pause after a failed attempt",
        "turn",
        "training nodes",
    ]
    starts = [command for command in world.deliver() if isinstance(command, StartTask)]
    assert {start.lead for start in starts} == {Target(job.tasks[0].node, job.tasks[0].address)}
    assert {start.lead_task for start in starts} == {f"{PROJECT}/tasks/a-1-train-0"}
    assert {(start.store, start.shards, start.snapshot) for start in starts} == {("", (), "")}


def test_a_job_without_shards_goes_on_from_its_one_snapshot() -> None:
    world = cluster(training=2, parameters=0)
    world.running("a", workers=2, shards=0)
    world.checkpoint("a-1-train-0", step=40, shards=1)
    world.fail("a-1-train-1", "UNAVAILABLE")
    world.pass_time(2)
    starts = [command for command in world.deliver() if isinstance(command, StartTask)]
    again = [start for start in starts if start.epoch == 2]
    assert {(start.start_step, start.snapshot) for start in again} == {(40, f"{PROJECT}/artifacts/40-0")}
    assert {start.lead_task for start in again} == {f"{PROJECT}/tasks/a-2-train-0"}
