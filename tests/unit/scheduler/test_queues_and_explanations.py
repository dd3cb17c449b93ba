"""Who is placed first, and what a job that waits is told."""

from headrace_scheduler.core.events import NodeDrained
from headrace_scheduler.core.explain import conditions, summary
from headrace_scheduler.core.jobs import JobState
from headrace_scheduler.core.nodes import NodeKind
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster


def explain(world: World, job_id: str) -> str:
    return summary(world.machine.tables, world.job(job_id), world.now, LEASE_S)


def test_a_wide_gang_is_not_starved_by_narrow_ones() -> None:
    world = cluster(training=2, parameters=4)
    world.running("narrow")
    world.submit("wide", workers=2)
    world.submit("late")
    assert world.job("late").state is JobState.QUEUED
    assert explain(world, "late") == f"waits: behind {PROJECT}/jobs/wide"
    world.succeed("narrow-1-train-0")
    assert world.job("wide").state is JobState.STARTING
    assert world.job("late").state is JobState.QUEUED


def test_a_job_that_could_never_fit_lets_others_pass() -> None:
    world = cluster(training=1)
    world.submit("huge", workers=50)
    assert world.submit("small").state is JobState.STARTING


def test_jobs_of_another_kind_have_a_queue_of_their_own() -> None:
    world = cluster(training=1, optimization=1)
    world.running("a")
    world.submit("b")
    assert world.optimize("o").state is JobState.STARTING


def test_tasks_are_spread_over_the_freest_nodes() -> None:
    world = cluster(training=0)
    for name in ("one", "two"):
        world.start(name, NodeKind.TRAINING, slots=2)
    assert [task.node for task in world.submit("a", workers=3).tasks] == [
        "nodes/one",
        "nodes/two",
        "nodes/one",
    ]


def test_a_drained_node_gets_no_new_work_and_keeps_what_it_has() -> None:
    world = cluster(training=1)
    world.running("a")
    world.handle(NodeDrained("nodes/training-0", drained=True))
    world.submit("b")
    world.succeed("a-1-train-0")
    world.deliver()
    assert world.job("a").state is JobState.SUCCEEDED
    assert world.job("b").state is JobState.QUEUED
    assert "1 draining" in conditions(world.machine.tables, world.job("b"), world.now, LEASE_S)[-1].reasons
    world.handle(NodeDrained("nodes/training-0", drained=False))
    assert world.job("b").state is JobState.STARTING


def test_a_node_that_leaves_gets_no_new_work_and_is_gone_with_its_call() -> None:
    world = cluster(training=1)
    world.running("a")
    world.report("training-0", leaving=True)
    assert world.job("a").state is JobState.RUNNING
    world.restart("training-0")
    assert world.job("a").state is JobState.QUEUED
    assert "has shut down" in world.job("a").message


def test_a_node_silent_for_half_a_lease_gets_no_new_work() -> None:
    world = cluster(training=1)
    world.nodes["training-0"].frozen = True
    world.pass_time(LEASE_S / 2 + 1)
    world.submit("a")
    assert world.job("a").state is JobState.QUEUED
    assert (
        "1 not heard from just now"
        in conditions(world.machine.tables, world.job("a"), world.now, LEASE_S)[-1].reasons
    )


def test_the_explanation_counts_what_is_missing_and_says_why() -> None:
    world = cluster(training=2, parameters=2)
    world.running("a")
    world.start("elsewhere", NodeKind.OPTIMIZATION)
    world.submit("b", workers=2)
    assert explain(world, "b") == (
        f"waits: needs 2 free training nodes, 1 is free (1 busy with {PROJECT}/jobs/a); "
        "start one more with `headrace up --workers 3`"
    )
    found = {
        condition.id: condition
        for condition in conditions(world.machine.tables, world.job("b"), world.now, LEASE_S)
    }
    assert list(found) == ["pause after a failed attempt", "turn", "parameter nodes", "training nodes"]
    assert found["training nodes"].reasons == (f"1 busy with {PROJECT}/jobs/a",)
    assert found["parameter nodes"].satisfied


def test_the_explanation_of_a_long_queue_stays_one_short_line() -> None:
    world = cluster(training=1)
    world.running("a")
    for index in range(20):
        world.submit(f"b{index}")
    assert explain(world, "b19") == f"waits: behind 19 jobs, {PROJECT}/jobs/b0 first"


def test_the_explanation_tells_to_resume_nodes_that_are_draining() -> None:
    world = cluster(training=2)
    for index in range(2):
        world.handle(NodeDrained(f"nodes/training-{index}", drained=True))
    world.submit("a")
    assert explain(world, "a") == (
        "waits: needs 1 free training node, 0 are free (2 draining); "
        "resume what is draining with `headrace node resume`, or start one more with `headrace up --workers 3`"
    )


def test_a_job_that_does_not_wait_says_so() -> None:
    world = cluster()
    world.running("a")
    assert explain(world, "a") == "does not wait: it is RUNNING, attempt 1"
    world.succeed("a-1-train-0")
    assert explain(world, "a") == "does not wait: it ended SUCCEEDED"
    world.submit("b")
    world.deliver()
    world.fail("b-1-train-0", "TASK_CRASHED")
    assert explain(world, "b") == "waits: the next attempt begins in 0.5 s"


def test_time_in_which_the_scheduler_slept_counts_against_no_node() -> None:
    world = cluster()
    world.running("a")
    world.now += 10 * LEASE_S
    world.pass_time(0.5)
    assert world.job("a").state is JobState.RUNNING
