"""Nodes that are lost, restarted, frozen and thawed: what becomes of the jobs they worked for."""

from headrace_scheduler.core.commands import CreateStore, DeleteStore, StartTask, StopTask
from headrace_scheduler.core.events import JobCancelled, NodeDrained, TaskState
from headrace_scheduler.core.jobs import JobState
from tests.unit.scheduler.world import LEASE_S, PROJECT, cluster

JOB = f"{PROJECT}/jobs/a"


def test_a_lost_node_queues_the_job_again_from_its_newest_checkpoint() -> None:
    world = cluster(training=3, parameters=3)
    world.running("a", workers=2, shards=2)
    world.checkpoint("a-1-train-0", step=20, shards=2)
    world.checkpoint("a-1-train-0", step=40, shards=2)
    world.nodes["training-1"].frozen = True
    world.pass_time(LEASE_S + 1)
    world.deliver()
    world.pass_time(1)
    commands = world.deliver()
    stores = [command for command in commands if isinstance(command, CreateStore)]
    starts = [command for command in commands if isinstance(command, StartTask)]
    saved = (f"{PROJECT}/artifacts/40-0", f"{PROJECT}/artifacts/40-1")
    assert [(store.epoch, store.index, store.snapshots) for store in stores] == [(2, 0, saved), (2, 1, saved)]
    assert {(start.epoch, start.start_step) for start in starts} == {(2, 40)}
    assert {start.target.node for start in starts} == {"nodes/training-0", "nodes/training-2"}
    assert "node training-1 was lost" not in world.job("a").message, "the message is of the last change"


def test_a_checkpoint_of_another_number_of_shards_is_gone_on_from() -> None:
    """The shards cut what they need out of all its snapshots."""
    world = cluster(training=2, parameters=3)
    world.running("a", shards=2)
    world.checkpoint("a-1-train-0", step=20, shards=3)
    world.fail("a-1-train-0", "NODE_LOST")
    world.pass_time(1)
    stores = [command for command in world.deliver() if isinstance(command, CreateStore)]
    assert [(store.index, len(store.snapshots)) for store in stores] == [(0, 3), (1, 3)]


def test_a_job_without_attempts_left_fails_with_node_lost() -> None:
    world = cluster()
    world.submit("a", attempts=1)
    world.deliver()
    world.nodes["training-0"].frozen = True
    world.pass_time(LEASE_S + 1)
    job = world.job("a")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.reason == "NODE_LOST"
    assert "training-0" in job.failure.message


def test_a_node_restarted_within_its_lease_loses_its_work_at_that_moment() -> None:
    world = cluster()
    world.running("a")
    world.restart("parameters-0")
    assert world.job("a").state is JobState.QUEUED
    assert "parameters-0 was restarted" in world.job("a").message


def test_a_frozen_node_that_thaws_has_its_leftovers_ended() -> None:
    world = cluster(training=2, parameters=2)
    world.running("a")
    world.nodes["training-0"].frozen = world.nodes["parameters-0"].frozen = True
    world.pass_time(LEASE_S + 1)
    world.deliver()
    world.nodes["training-0"].frozen = world.nodes["parameters-0"].frozen = False
    world.pass_time(2)
    world.deliver()
    assert world.nodes["training-0"].active == 0
    assert world.nodes["parameters-0"].stores == {}
    assert world.job("a").remnants == ()


def test_what_a_frozen_node_did_not_answer_is_asked_again_when_it_thaws() -> None:
    world = cluster()
    world.running("a")
    world.nodes["training-0"].frozen = world.nodes["parameters-0"].frozen = True
    world.handle(JobCancelled(JOB))
    world.pass_time(LEASE_S + 1)
    world.deliver()
    world.nodes["training-0"].frozen = world.nodes["parameters-0"].frozen = False
    world.pass_time(2)
    assert [type(command) for command in world.deliver()] == [StopTask, DeleteStore]
    assert world.job("a").settled


def test_losing_another_rank_after_rank_0_has_registered_its_result_costs_nothing() -> None:
    world = cluster()
    world.running("a", workers=2)
    world.succeed("a-1-train-0", "projects/default/models/m/versions/1")
    world.nodes["training-1"].frozen = True
    world.pass_time(LEASE_S + 1)
    assert world.job("a").state is JobState.SUCCEEDED


def test_a_cancelled_job_whose_node_is_frozen_ends_with_the_lease() -> None:
    world = cluster()
    world.running("a")
    world.nodes["training-0"].frozen = True
    world.handle(JobCancelled(JOB))
    assert world.job("a").state is JobState.CANCELLING
    world.pass_time(LEASE_S + 1)
    assert world.job("a").state is JobState.CANCELLED


def test_a_task_its_node_no_longer_knows_is_lost_after_a_lease() -> None:
    world = cluster()
    world.running("a")
    world.nodes["training-0"].tasks.clear()
    world.pass_time(LEASE_S - 1)
    assert world.job("a").state is JobState.RUNNING
    world.pass_time(2)
    assert world.job("a").attempt == 1
    assert world.job("a").state is JobState.QUEUED


def test_nodes_that_leave_in_good_order_cost_a_job_no_attempt() -> None:
    """A rolling restart of many nodes must not fail the jobs that run there."""
    world = cluster(training=1)
    world.submit("a", attempts=2)
    for attempt in range(1, 6):
        world.pass_time(1)
        world.deliver()
        world.run(f"a-{attempt}-train-0")
        world.report("training-0", leaving=True)
        world.change(f"a-{attempt}-train-0", state=TaskState.STOPPED)
        assert world.job("a").state is JobState.QUEUED
        assert world.job("a").message.endswith(
            " because a node left in good order: not counted as one of its 2 attempts"
        )
        world.restart("training-0")
    world.pass_time(1)
    assert (world.job("a").attempt, world.job("a").excused) == (6, 5)


def test_a_task_that_fails_because_the_node_of_its_store_leaves_costs_no_attempt() -> None:
    world = cluster()
    world.running("a")
    world.report("parameters-0", leaving=True)
    world.restart_scheduler()
    world.fail("a-1-train-0", "UNAVAILABLE")
    assert world.job("a").excused == 1


def test_the_end_of_a_drained_node_costs_no_attempt() -> None:
    world = cluster()
    world.running("a")
    world.handle(NodeDrained("nodes/training-0", drained=True))
    world.restart("training-0")
    assert world.job("a").excused == 1


def test_a_program_that_raises_on_a_node_that_leaves_ends_the_job() -> None:
    world = cluster()
    world.running("a")
    world.report("training-0", leaving=True)
    world.fail("a-1-train-0", "PROGRAM_FAILED")
    world.deliver()
    assert world.job("a").state is JobState.FAILED


def test_a_task_of_no_job_is_stopped_but_one_started_by_hand_is_left_alone() -> None:
    world = cluster(training=1)
    node = world.nodes["training-0"]
    node.slots = 2
    node.perform(_start("ghost-3-train-0"))
    node.perform(_start("by-hand"))
    world.report("training-0")
    assert [type(command) for command in world.deliver()] == [StopTask]
    assert set(node.tasks) == {f"{PROJECT}/tasks/by-hand"}


def test_a_task_started_by_hand_takes_its_slot() -> None:
    world = cluster(training=1)
    world.nodes["training-0"].perform(_start("by-hand"))
    world.report("training-0")
    assert world.submit("a").state is JobState.QUEUED


def _start(task: str) -> StartTask:
    world = cluster(training=1)
    world.submit("x")
    start = next(command for command in world.deliver() if isinstance(command, StartTask))
    return StartTask(**{**vars(start), "task": f"{PROJECT}/tasks/{task}"})
