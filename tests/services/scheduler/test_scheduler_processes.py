"""The scheduler as a process of its own: killed, frozen, restarted in the middle of its work."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import HeadraceError
from headrace.rpc.channel import open_channel
from headrace.scheduler.v1 import cluster_pb2, deployments_pb2, jobs_pb2
from headrace.testing import free_port
from headrace.types.v1 import task_pb2
from tests.services.scheduler.fake_nodes import WAIT_S, Nodes, fake_nodes
from tests.services.scheduler.scheduler_server import LEASE_S, PROJECT, Scheduler, SchedulerProcess

TASK = f"{PROJECT}/tasks/a-1-train-0"


@pytest.fixture
def process(tmp_path: Path, registry: str) -> Iterator[SchedulerProcess]:
    started = SchedulerProcess(tmp_path, f"127.0.0.1:{free_port()}", registry)
    started.start()
    yield started
    started.kill()


@pytest.fixture
def scheduler(process: SchedulerProcess) -> Iterator[Scheduler]:
    with open_channel(process.address) as channel:
        yield Scheduler(channel, process.address)


@pytest.fixture
def nodes(process: SchedulerProcess) -> Iterator[Nodes]:
    with fake_nodes(process.address) as started:
        yield started


def restart(process: SchedulerProcess) -> None:
    process.kill()
    process.start()


def test_a_running_job_is_adopted_after_kill_9_and_not_started_twice(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    shard, worker = nodes.parameters(), nodes.training()
    scheduler.train("a")
    worker.wait_for(lambda node: TASK in node.tasks)
    worker.set_task(TASK, task_pb2.TASK_STATE_RUNNING)
    before = scheduler.wait_for_state("a", "RUNNING")
    restart(process)
    worker.set_task(TASK, task_pb2.TASK_STATE_RUNNING, progress=task_pb2.Progress(step=50, total_steps=100))
    after = scheduler.wait_for_job("a", lambda job: job.progress.step == 50)
    assert (after.state, after.attempt) == (jobs_pb2.JOB_STATE_RUNNING, 1)
    assert after.revision > before.revision
    assert worker.calls == [f"start {TASK}"]
    worker.set_task(TASK, task_pb2.TASK_STATE_SUCCEEDED, result=task_pb2.TaskResult())
    scheduler.wait_for_state("a", "SUCCEEDED")
    shard.wait_for(lambda node: not node.stores)


def test_a_job_killed_while_it_starts_goes_on_starting(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    shard, worker = nodes.parameters(), nodes.training()
    shard.hang.clear()
    scheduler.train("a")
    shard.wait_for(lambda node: bool(node.calls))
    restart(process)
    shard.hang.set()
    worker.wait_for(lambda node: TASK in node.tasks)
    assert scheduler.get("a").attempt == 1


def test_a_task_that_ended_while_the_scheduler_was_away_is_recorded(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.parameters()
    worker = nodes.training()
    scheduler.train("a")
    worker.wait_for(lambda node: TASK in node.tasks)
    process.kill()
    worker.set_task(TASK, task_pb2.TASK_STATE_SUCCEEDED, result=task_pb2.TaskResult(version="v"))
    process.start()
    assert scheduler.wait_for_state("a", "SUCCEEDED").result.version == "v"
    worker.wait_for(lambda node: not node.tasks)


def test_a_node_that_died_while_the_scheduler_was_away_is_noticed(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.parameters()
    worker = nodes.training()
    scheduler.train("a")
    worker.wait_for(lambda node: TASK in node.tasks)
    worker.set_task(TASK, task_pb2.TASK_STATE_RUNNING)
    scheduler.wait_for_state("a", "RUNNING")
    process.kill()
    nodes.kill("training-0")
    process.start()
    job = scheduler.wait_for_job("a", lambda job: job.state == jobs_pb2.JOB_STATE_QUEUED)
    assert "training-0 was lost" in job.message


def test_accepted_work_answers_and_drains_survive_kill_9(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.training("drained")
    scheduler.cluster.DrainNode(cluster_pb2.DrainNodeRequest(name="nodes/drained"))
    scheduler.cluster.CreatePool(cluster_pb2.CreatePoolRequest(pool_id="gpu"))
    job = scheduler.train(request_id="once", pool="pools/gpu")
    deployment = deployments_pb2.Deployment(version=f"{PROJECT}/models/digits/versions/1")
    scheduler.deployments.CreateDeployment(
        deployments_pb2.CreateDeploymentRequest(parent=PROJECT, deployment_id="digits", deployment=deployment)
    )
    restart(process)
    assert scheduler.train(request_id="once", pool="pools/gpu") == job
    assert len(scheduler.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=PROJECT)).jobs) == 1
    node = scheduler.cluster.GetNode(cluster_pb2.GetNodeRequest(name="nodes/drained"))
    assert node.state == cluster_pb2.NODE_STATE_DRAINING
    nodes.inference().wait_for(lambda node: "digits" in node.models)


def test_a_scheduler_that_was_frozen_loses_no_node(
    process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.parameters()
    worker = nodes.training()
    scheduler.train("a")
    worker.wait_for(lambda node: TASK in node.tasks)
    worker.set_task(TASK, task_pb2.TASK_STATE_RUNNING)
    scheduler.wait_for_state("a", "RUNNING")
    process.signal(signal.SIGSTOP)
    assert worker.agent
    with pytest.raises(HeadraceError):
        scheduler.jobs.GetJob(jobs_pb2.GetJobRequest(name=f"{PROJECT}/jobs/a"), timeout=LEASE_S * 1.2)
    process.signal(signal.SIGCONT)
    assert worker.agent.attached.wait(WAIT_S)
    worker.set_task(TASK, task_pb2.TASK_STATE_RUNNING, progress=task_pb2.Progress(step=9))
    job = scheduler.wait_for_job("a", lambda job: job.progress.step == 9)
    assert (job.state, job.attempt) == (jobs_pb2.JOB_STATE_RUNNING, 1)


def test_sigterm_ends_it_in_good_order(process: SchedulerProcess, scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.training()
    scheduler.train("a")
    watch = scheduler.jobs.WatchJob(jobs_pb2.WatchJobRequest(name=f"{PROJECT}/jobs/a"), timeout=20)
    next(watch)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    events = [event["event"] for event in process.log]
    assert events[-1] == "stopped"
    assert not [event for event in process.log if event["level"] in ("error", "warning")]
