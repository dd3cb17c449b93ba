"""What runs log to MLflow, read back from a real tracking database."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.training.training_world import SGD, World, final, stub, worker

JOB = "projects/default/jobs/tracked"


def attempt(running: World, workers: WorkersStub, program: str = "Small", **changes: int | str) -> Task:
    (request,) = running.all_reduce(
        f"training_programs:{program}",
        SGD,
        world_size=1,
        job=JOB,
        evaluate_every_steps=5,
        **changes,  # type: ignore[arg-type]  # by name
    )
    workers.StartTask(request)
    return final(workers, request.name)


def only_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("default")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_the_attempts_of_a_job_are_one_run_with_its_measures_and_its_end(
    running: World, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    with ExitStack() as stack:
        service = stack.enter_context(
            worker(tmp_path / "worker", running.registry_address, MLFLOW_TRACKING_URI=uri)
        )
        workers = stub(service.address, stack)
        first = attempt(running, workers, "Raising", steps=10)
        assert first.failure.reason == "PROGRAM_FAILED"
        assert only_run(client).info.status == "FAILED"
        second = attempt(running, workers, steps=10, epoch=2)
        assert second.state == TaskState.TASK_STATE_SUCCEEDED, second.failure
    run = only_run(client)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tracked")
    assert run.data.params["steps"] == "10"
    assert run.data.metrics["loss"] == pytest.approx(second.progress.metrics["loss"])
    accuracy = client.get_metric_history(run.info.run_id, "accuracy")
    assert [point.step for point in accuracy] == [5, 10]


def test_a_tracking_server_that_is_down_ends_no_training(running: World, tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(
            worker(tmp_path / "worker", running.registry_address, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
        )
        task = attempt(running, stub(service.address, stack), steps=10)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
