"""The scheduler passes on what nodes keep of the tasks of jobs."""

import pytest

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from headrace.tasks.v1.inspection_pb2 import (
    CaptureProfileRequest,
    DumpStacksRequest,
    GetMetricsRequest,
    ReadLogRequest,
)
from headrace.types.v1 import task_pb2
from tests.services.scheduler.fake_nodes import Nodes
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler

TASK = f"{PROJECT}/tasks/a-1-train-0"


def read(scheduler: Scheduler, task: str = TASK) -> list[bytes]:
    return [response.data for response in scheduler.inspection.ReadLog(ReadLogRequest(name=task), timeout=20)]


def test_the_node_a_task_runs_on_is_asked_first(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    workers = [nodes.training(f"training-{number}") for number in range(2)]
    scheduler.train("a")
    workers[0].wait_for(lambda node: TASK in node.tasks)
    workers[0].logs[TASK] = [b"one\n", b"two\n"]
    assert read(scheduler) == [b"one\n", b"two\n"]
    assert f"log {TASK}" not in workers[1].calls


def test_the_log_of_a_former_attempt_is_found_wherever_it_ran(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    worker = nodes.training()
    scheduler.train("a")
    worker.wait_for(lambda node: TASK in node.tasks)
    worker.set_task(
        TASK, task_pb2.TASK_STATE_FAILED, failure=task_pb2.Failure(reason="TASK_CRASHED", message="gone")
    )
    scheduler.wait_for_job("a", lambda job: job.attempt == 2)
    worker.logs[TASK] = [b"my last words"]
    assert read(scheduler) == [b"my last words"]


def test_measures_are_passed_on(scheduler: Scheduler, nodes: Nodes) -> None:
    workers = [nodes.training(f"training-{number}") for number in range(2)]
    workers[1].logs[TASK] = []
    metrics = scheduler.inspection.GetMetrics(GetMetricsRequest(name=TASK))
    assert [(one.name, list(one.steps), list(one.values)) for one in metrics.series] == [("loss", [1], [0.5])]
    assert workers[0].calls == [f"metrics {TASK}"], "it was asked, and knew nothing"


def test_stacks_and_profiles_are_passed_on_and_so_is_why_there_are_none(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    worker = nodes.training()
    with pytest.raises(FailedPrecondition, match="no steps"):
        list(scheduler.inspection.CaptureProfile(CaptureProfileRequest(name=TASK)))
    worker.logs[TASK] = [b"a trace"]
    assert scheduler.inspection.DumpStacks(DumpStacksRequest(name=TASK)).text == "in a fake"
    assert [part.data for part in scheduler.inspection.CaptureProfile(CaptureProfileRequest(name=TASK))] == [
        b"a trace"
    ]


def test_a_task_that_no_node_knows_is_not_found(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.training()
    with pytest.raises(NotFound, match="no attached node keeps anything of"):
        read(scheduler)
    with pytest.raises(InvalidArgument):
        read(scheduler, "a-1-train-0")


def test_a_node_that_cannot_be_asked_is_told_apart_from_one_that_keeps_nothing(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    worker = nodes.training()
    worker.refuse_with = Unavailable("the node is about to stop")
    with pytest.raises(Unavailable):
        read(scheduler)
