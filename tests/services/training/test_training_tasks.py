"""Tasks of a training worker, through its real process."""

import gzip
import io
import tarfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import AlreadyExists, InvalidArgument, NotFound, ProgramNotAllowed, ResourceExhausted
from headrace.program.archive import pack
from headrace.types.v1.program_pb2 import Archive, Program
from headrace.types.v1.task_pb2 import GetTaskRequest, ListTasksRequest, StopTaskRequest, Task, TaskState
from tests.services.training.training_world import HERE, SGD, World, final, watch

SMALL = "training_programs:Small"


def test_a_run_becomes_a_version_with_its_lineage(running: World) -> None:
    request = running.request(
        SMALL,
        running.create_store(SGD, workers=1),
        steps=40,
        model="projects/default/models/lineage",
        job="projects/default/jobs/train-1",
    )
    (task,) = running.run(request)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    version = running.registry.get_version(task.result.version)
    assert version.program == request.program
    assert version.job == request.job
    assert version.metrics["accuracy"] == task.result.metrics["accuracy"] > 0.8
    assert (version.labels["seed"], version.labels["steps"]) == ("5", "40")
    assert [file.path for file in version.files] == ["model.safetensors"]
    assert (task.progress.step, task.progress.total_steps) == (40, 40)
    assert {"loss", "samples_per_s", "accuracy"} <= set(task.progress.metrics)


def test_a_second_attempt_of_a_finished_run_makes_no_second_version(running: World) -> None:
    changes = {"model": "projects/default/models/once", "job": "projects/default/jobs/once"}
    versions = []
    for seed in (1, 2):  # as if the attempts had not computed quite the same
        store = running.create_store(SGD, workers=1)
        (task,) = running.run(running.request(SMALL, store, steps=2, seed=seed, **changes))
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
        versions.append(task.result.version)
    assert versions[0] == versions[1]
    assert len(list(running.registry.list_versions(changes["model"]))) == 1


def test_a_repeated_start_returns_the_task_and_another_body_is_refused(running: World) -> None:
    request = running.request(SMALL, running.create_store(SGD, workers=1), steps=2)
    (task,) = running.run(request)
    workers = running.workers_stub(0)
    assert workers.StartTask(request) == task
    request.options.steps = 3
    with pytest.raises(AlreadyExists):
        workers.StartTask(request)


def test_a_worker_without_a_free_slot_says_what_it_does(running: World) -> None:
    workers = running.workers_stub(0)
    slow = running.request("training_programs:Slow", running.create_store(SGD, workers=1), steps=1000)
    workers.StartTask(slow)
    with pytest.raises(ResourceExhausted, match=slow.name):
        workers.StartTask(running.request(SMALL, slow.store, steps=1))
    workers.StopTask(StopTaskRequest(name=slow.name))
    assert final(workers, slow.name).state == TaskState.TASK_STATE_STOPPED


def test_a_rank_that_waits_for_another_one_stops_at_once(running: World) -> None:
    """The other rank never comes, so the step would wait for its ten minutes."""
    workers = running.workers_stub(0)
    request = running.request(SMALL, running.create_store(SGD, workers=2), steps=5, world_size=2)
    workers.StartTask(request)
    next(task for task in watch(workers, request.name) if task.progress.stage == "loading")
    assert workers.StopTask(StopTaskRequest(name=request.name)).state == TaskState.TASK_STATE_STOPPING
    task = final(workers, request.name)
    assert task.state == TaskState.TASK_STATE_STOPPED
    assert task.end_time.ToDatetime() - task.create_time.ToDatetime() < timedelta(seconds=30)


def test_a_program_that_raises_fails_in_one_line_with_its_traceback(running: World) -> None:
    task = run_alone(running, "training_programs:Raising")
    assert task.failure.reason == "PROGRAM_FAILED"
    assert task.failure.message == "KeyError: 'row 17 has no label'"
    assert 'raise KeyError("row 17 has no label")' in task.failure.detail
    assert task.progress.step == 2


def test_a_loss_that_is_not_finite_fails_and_names_the_step(running: World) -> None:
    failure = run_alone(running, "training_programs:Exploding").failure
    assert failure.reason == "NON_FINITE_VALUES"
    assert "the loss is nan in step 0" in failure.message


def test_a_program_that_is_not_there_fails_with_a_way_out(running: World) -> None:
    failure = run_alone(running, "training_programs:Smal").failure
    assert failure.reason == "INVALID_ARGUMENT"
    assert "did you mean 'Small'?" in failure.message


def test_a_store_that_is_not_there_fails_with_its_name(running: World) -> None:
    (task,) = running.run(running.request(SMALL, "projects/default/stores/nowhere", steps=1))
    assert task.failure.reason == "NOT_FOUND"
    assert "projects/default/stores/nowhere" in task.failure.message


def test_a_program_that_is_not_allowed_is_refused_and_leaves_no_task(running: World) -> None:
    workers = running.workers_stub(0)
    request = running.request("subprocess:Popen", "projects/default/stores/s", steps=1)
    with pytest.raises(ProgramNotAllowed, match="ALLOWED_PROGRAMS"):
        workers.StartTask(request)
    with pytest.raises(NotFound):
        workers.GetTask(GetTaskRequest(name=request.name))


def test_a_request_with_a_mistake_names_the_field(running: World) -> None:
    with pytest.raises(InvalidArgument) as refused:
        running.workers_stub(0).StartTask(running.request(SMALL, "stores/s", steps=1))
    assert refused.value.field == "store"


def test_tasks_are_listed_newest_first_page_by_page(running: World) -> None:
    workers = running.workers_stub(0)
    started = [run_alone(running, SMALL).name for _ in range(2)]
    first = workers.ListTasks(ListTasksRequest(parent="projects/default", page_size=1))
    second = workers.ListTasks(
        ListTasksRequest(parent="projects/default", page_size=1, page_token=first.next_page_token)
    )
    assert [task.name for task in (*first.tasks, *second.tasks)] == started[::-1]
    assert list(workers.ListTasks(ListTasksRequest(parent="projects/other")).tasks) == []


def test_a_program_from_an_archive_is_trained(running: World, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_bytes((HERE / "training_programs.py").read_bytes())
    artifact = running.registry.upload_bytes("default", pack(source))
    program = Program(archive=Archive(artifact=artifact, object="mine:Small"))
    store = running.create_store(SGD, workers=1)
    (task,) = running.run(running.request(program, store, steps=2, model="projects/default/models/archived"))
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    assert running.registry.get_version(task.result.version).program == program


def test_an_archive_that_leads_out_fails_and_names_the_member(running: World) -> None:
    artifact = running.registry.upload_bytes("default", tar_of("../evil.py", b"x = 1\n"))
    program = Program(archive=Archive(artifact=artifact, object="evil:Small"))
    (task,) = running.run(running.request(program, running.create_store(SGD, workers=1), steps=1))
    assert task.failure.reason == "INVALID_ARGUMENT"
    assert "'../evil.py'" in task.failure.message


def test_a_run_resumed_from_its_checkpoint_equals_one_without_a_break(running: World) -> None:
    whole = running.request(
        SMALL, running.create_store(SGD, workers=1), steps=20, model="projects/default/models/whole"
    )
    half = running.request(SMALL, running.create_store(SGD, workers=1), steps=10, checkpoint_every_steps=10)
    (unbroken,) = running.run(whole)
    (broken,) = running.run(half)
    assert broken.checkpoint.step == 10
    store = running.create_store(SGD, epoch=2, workers=1, snapshots=broken.checkpoint.snapshots)
    (resumed,) = running.run(
        running.request(
            SMALL, store, steps=20, start_step=10, epoch=2, model="projects/default/models/resumed"
        )
    )
    expected = running.weights(running.registry.get_version(unbroken.result.version))
    found = running.weights(running.registry.get_version(resumed.result.version))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def run_alone(running: World, program: str) -> Task:
    (task,) = running.run(running.request(program, running.create_store(SGD, workers=1), steps=5))
    return task


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue())
