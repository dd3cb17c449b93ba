"""What runs measured, read back: from the node, and with TensorBoard's own reader."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from headrace.errors import NotFound
from headrace.rpc.channel import open_channel
from headrace.tasks.v1.inspection_pb2 import GetMetricsRequest
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub
from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.training.training_world import SGD, World, children_of, final, stub, until_step, worker

SMALL = "training_programs:Small"
JOB = "projects/default/jobs/curves"


@pytest.fixture
def inspection(running: World) -> Iterator[InspectionStub]:
    with open_channel(running.workers[0]) as channel:
        yield InspectionStub(channel)


def test_every_step_and_every_evaluation_is_in_the_history(
    running: World, inspection: InspectionStub
) -> None:
    (request,) = running.all_reduce(SMALL, SGD, steps=20, evaluate_every_steps=5, world_size=1)
    (task,) = running.run(request)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    series = {one.name: one for one in inspection.GetMetrics(GetMetricsRequest(name=request.name)).series}
    assert list(series["loss"].steps) == list(range(1, 21))
    assert list(series["accuracy"].steps) == [5, 10, 15, 20]
    assert series["accuracy"].values[-1] == task.progress.metrics["accuracy"]
    assert series["loss"].values[-1] == task.progress.metrics["loss"]
    assert 0 < task.progress.metrics["mfu"] < 1.5, "of a peak that was measured, not looked up"


def test_a_killed_rank_leaves_its_history(running: World, inspection: InspectionStub) -> None:
    (request,) = running.all_reduce("training_programs:Slow", SGD, steps=1000, world_size=1)
    workers = running.workers_stub(0)
    workers.StartTask(request)
    until_step(workers, request.name, 60)  # three seconds
    children_of(running.worker_processes[0])[0].kill()
    assert final(workers, request.name).state == TaskState.TASK_STATE_FAILED
    (loss,) = [
        one
        for one in inspection.GetMetrics(GetMetricsRequest(name=request.name)).series
        if one.name == "loss"
    ]
    assert list(loss.steps) == list(range(1, len(loss.steps) + 1))
    assert len(loss.steps) >= 20


def test_a_task_that_measured_nothing_has_no_series(running: World, inspection: InspectionStub) -> None:
    (request,) = running.all_reduce("training_programs:Smal", SGD, steps=1, world_size=1)
    running.run(request)
    assert not inspection.GetMetrics(GetMetricsRequest(name=request.name)).series
    with pytest.raises(NotFound):
        inspection.GetMetrics(GetMetricsRequest(name="projects/default/tasks/nobody"))


def test_tensorboard_reads_one_run_of_all_attempts(running: World, tmp_path: Path) -> None:
    """The second attempt goes on from step 10; what the first did after that is hidden."""
    with ExitStack() as stack:
        service = stack.enter_context(
            worker(tmp_path / "worker", running.registry_address, TENSORBOARD_DIR=str(tmp_path / "runs"))
        )
        workers = stub(service.address, stack)
        first = attempt(running, workers, steps=15, checkpoint_every_steps=10)
        second = attempt(
            running, workers, steps=20, epoch=2, start_step=10, snapshot=first.checkpoint.snapshots[0]
        )
    events = EventAccumulator(str(tmp_path / "runs" / "default" / "curves"))
    events.Reload()
    loss, accuracy = events.Scalars("loss"), events.Scalars("accuracy")
    steps = [point.step for point in loss]
    assert steps == sorted(set(steps)), "no step twice"
    assert (steps[0], steps[-1]) == (1, 20)
    assert loss[-1].value == pytest.approx(second.progress.metrics["loss"])
    assert [point.step for point in accuracy] == [5, 10, 15, 20]


def attempt(running: World, workers: WorkersStub, **changes: int | str) -> Task:
    (request,) = running.all_reduce(
        SMALL,
        SGD,
        world_size=1,
        job=JOB,
        evaluate_every_steps=5,
        **changes,  # type: ignore[arg-type]  # by name
    )
    workers.StartTask(request)
    task = final(workers, request.name)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    return task
