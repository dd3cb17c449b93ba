"""Jobs through a real scheduler, with nodes whose work the test plays."""

from headrace.errors import (
    ProgramNotAllowed,
    Unavailable,
)
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.v1 import workers_pb2
from headrace.types.v1 import task_pb2
from tests.services.scheduler.fake_nodes import FakeNode, Nodes
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler, train_spec

TASK = f"{PROJECT}/tasks/a-1-train-0"
STORE = f"{PROJECT}/stores/a"


def run(node: FakeNode, task: str, **values: object) -> None:
    node.wait_for(lambda node: task in node.tasks)
    node.set_task(task, task_pb2.TASK_STATE_RUNNING, **values)


def succeed(node: FakeNode, task: str, version: str = "") -> None:
    result = task_pb2.TaskResult(version=version, metrics={"accuracy": 0.98})
    node.set_task(task, task_pb2.TASK_STATE_SUCCEEDED, result=result)


def test_a_training_job_runs_from_its_request_to_its_result(scheduler: Scheduler, nodes: Nodes) -> None:
    shards = [nodes.parameters(f"parameters-{index}") for index in range(2)]
    workers = [nodes.training(f"training-{index}") for index in range(2)]
    created = scheduler.train("a", workers=2, shards=2)
    assert (created.name, created.state) == (f"{PROJECT}/jobs/a", jobs_pb2.JOB_STATE_STARTING)
    for rank, worker in enumerate(workers):
        progress = task_pb2.Progress(step=5, total_steps=100, stage="training", metrics={"samples_per_s": 10})
        run(worker, f"{PROJECT}/tasks/a-1-train-{rank}", progress=progress)
    running = scheduler.wait_for_job("a", lambda job: job.progress.metrics["samples_per_s"] == 20)
    assert {placement.resource for placement in running.placements} == {
        STORE,
        TASK,
        f"{PROJECT}/tasks/a-1-train-1",
    }
    start = workers[1].starts[f"{PROJECT}/tasks/a-1-train-1"]
    assert isinstance(start, workers_pb2.StartTaskRequest)
    assert (start.rank, start.world_size, start.epoch, start.store, start.job) == (
        1,
        2,
        1,
        STORE,
        created.name,
    )
    assert list(start.shards) == [shard.address for shard in shards]
    assert start.options == created.train.options
    for rank, worker in enumerate(workers):
        succeed(worker, f"{PROJECT}/tasks/a-1-train-{rank}", f"{PROJECT}/models/digits/versions/1")
    done = scheduler.wait_for_state("a", "SUCCEEDED")
    assert done.result.version == f"{PROJECT}/models/digits/versions/1"
    assert done.end_time.ToSeconds() >= done.start_time.ToSeconds() > 0
    for node in (*shards, *workers):
        node.wait_for(lambda node: not node.stores and not node.tasks)
    assert scheduler.get("a").state == jobs_pb2.JOB_STATE_SUCCEEDED


def test_an_optimize_job_is_given_the_version_its_alias_means(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.optimization()
    job = jobs_pb2.Job(optimize=jobs_pb2.OptimizeSpec(version=f"{PROJECT}/models/digits@latest"))
    scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job_id="o", job=job))
    task = f"{PROJECT}/tasks/o-1-optimize-0"
    run(node, task)
    start = node.starts[task]
    assert not isinstance(start, workers_pb2.StartTaskRequest)
    assert start.version == f"{PROJECT}/models/digits/versions/3"
    succeed(node, task, f"{PROJECT}/models/digits/versions/4")
    assert scheduler.wait_for_state("o", "SUCCEEDED").result.version.endswith("/4")


def test_optimizing_a_version_that_is_not_there_fails_at_once(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.optimization()
    job = jobs_pb2.Job(optimize=jobs_pb2.OptimizeSpec(version=f"{PROJECT}/models/digits/versions/9"))
    scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job_id="o", job=job))
    failed = scheduler.wait_for_state("o", "FAILED")
    assert (failed.attempt, failed.failure.reason) == (1, "NOT_FOUND")
    assert "versions/9 does not exist" in failed.failure.message


def test_a_task_that_fails_ends_the_job_with_its_failure(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    workers = [nodes.training(f"training-{index}") for index in range(2)]
    scheduler.train("a", workers=2)
    for rank, worker in enumerate(workers):
        run(worker, f"{PROJECT}/tasks/a-1-train-{rank}")
    failure = task_pb2.Failure(reason="PROGRAM_FAILED", message="model() raised", detail="Traceback")
    workers[1].set_task(f"{PROJECT}/tasks/a-1-train-1", task_pb2.TASK_STATE_FAILED, failure=failure)
    assert scheduler.wait_for_state("a", "FAILED").failure == failure
    assert f"stop {TASK}" in workers[0].calls


def test_a_start_that_a_node_refuses_for_good_fails_the_job(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    nodes.training().refuse_with = ProgramNotAllowed("the program is not on the allow-list")
    scheduler.train("a")
    failed = scheduler.wait_for_state("a", "FAILED")
    assert (failed.failure.reason, failed.attempt) == ("PROGRAM_NOT_ALLOWED", 1)


def test_a_start_that_fails_for_now_is_tried_again(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    worker = nodes.training()
    worker.refuse_with = Unavailable("not now")
    scheduler.train("a")
    scheduler.wait_for_job("a", lambda job: job.attempt >= 1 and job.state == jobs_pb2.JOB_STATE_QUEUED)
    worker.refuse_with = None
    worker.wait_for(lambda node: any(name.startswith(f"{PROJECT}/tasks/a-") for name in node.tasks))


def test_a_lost_node_costs_an_attempt_and_the_next_goes_on_from_the_checkpoint(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    shard = nodes.parameters()
    worker = nodes.training()
    scheduler.train("a")
    checkpoint = task_pb2.Checkpoint(step=40, snapshots=[f"{PROJECT}/artifacts/{'0' * 64}"])
    run(worker, TASK, checkpoint=checkpoint)
    scheduler.wait_for_job("a", lambda job: job.checkpoint == checkpoint)
    nodes.kill("training-0")
    lost = scheduler.wait_for_job("a", lambda job: "training-0 was lost" in job.message)
    assert lost.state == jobs_pb2.JOB_STATE_QUEUED
    other = nodes.training("training-1")
    task = f"{PROJECT}/tasks/a-2-train-0"
    run(other, task)
    start = other.starts[task]
    assert isinstance(start, workers_pb2.StartTaskRequest)
    assert start.start_step == 40
    assert (shard.stores[STORE].epoch, list(shard.stores[STORE].snapshots)) == (2, list(checkpoint.snapshots))


def test_a_node_that_hangs_holds_up_nobody_else(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters("parameters-0", slots=4)
    slow, fast = nodes.training("slow"), nodes.training("fast")
    slow.hang.clear()
    scheduler.train("a", workers=2)
    fast.wait_for(lambda node: bool(node.tasks))
    assert scheduler.get("a").state == jobs_pb2.JOB_STATE_STARTING
    slow.hang.set()
    slow.wait_for(lambda node: bool(node.tasks))


def test_cancelling_stops_the_tasks_and_frees_the_stores(scheduler: Scheduler, nodes: Nodes) -> None:
    shard, worker = nodes.parameters(), nodes.training()
    scheduler.train("a")
    run(worker, TASK)
    cancel = jobs_pb2.CancelJobRequest(name=f"{PROJECT}/jobs/a")
    assert scheduler.jobs.CancelJob(cancel).state == jobs_pb2.JOB_STATE_CANCELLING
    scheduler.wait_for_state("a", "CANCELLED")
    shard.wait_for(lambda node: not node.stores)
    assert scheduler.jobs.CancelJob(cancel).state == jobs_pb2.JOB_STATE_CANCELLED


def test_a_job_that_waits_is_told_why(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    nodes.training()
    scheduler.train("a", workers=2)
    explained = scheduler.jobs.ExplainJob(jobs_pb2.ExplainJobRequest(name=f"{PROJECT}/jobs/a"))
    assert explained.summary == (
        "waits: needs 2 free training nodes, 1 is free; start one more with `headrace up --workers 2`"
    )
    last = explained.conditions[-1]
    assert (last.id, last.satisfied, last.needed, last.available) == ("training nodes", False, 2, 1)


def test_the_ranks_of_a_job_by_all_reduce_are_told_all_that_a_store_would_have(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    workers = [nodes.training(f"training-{index}") for index in range(2)]
    spec = train_spec(workers=2, shards=0)
    spec.strategy = workers_pb2.STRATEGY_ALL_REDUCE
    spec.optimizer.maximum_gradient_norm, spec.optimizer.schedule.warmup_steps = 1.5, 7
    job = jobs_pb2.Job(train=spec)
    created = scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job_id="a", job=job))
    placed = {placement.index: placement.node for placement in created.placements}
    by_name = {f"nodes/{worker.name}": worker for worker in workers}
    for rank, node in placed.items():
        task = f"{PROJECT}/tasks/a-1-train-{rank}"
        run(by_name[node], task)
        start = by_name[node].starts[task]
        assert isinstance(start, workers_pb2.StartTaskRequest)
        assert start.strategy == workers_pb2.STRATEGY_ALL_REDUCE
        assert start.optimizer == created.train.optimizer
        settings = start.optimizer
        assert (settings.maximum_gradient_norm, settings.schedule.warmup_steps) == (1.5, 7)
        assert start.lead == workers_pb2.Lead(address=by_name[placed[0]].address, task=TASK)
        assert (start.store, list(start.shards), start.snapshot) == ("", [], "")
