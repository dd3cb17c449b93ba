"""The optimization service beside a real registry: from StartTask to a version that can be served."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from headrace.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ProgramNotAllowed,
    ResourceExhausted,
)
from headrace.optimization.report import Report
from headrace.optimization.v1.optimizer_pb2 import Gates, ListPassesRequest, OptimizationOptions, Precision
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace.types.v1.program_pb2 import Archive, Program
from headrace.types.v1.task_pb2 import StopTaskRequest, Task, TaskState
from tests.services.optimization.conftest import MODEL, PROGRAMS, Service
from tests.unit.optimization.tiny_programs import Bars

FP32_ONLY = OptimizationOptions(precisions=[Precision.PRECISION_FP32], batch_sizes=[1])


def test_a_trained_version_becomes_one_that_can_be_served(service: Service) -> None:
    source = service.add_version()
    service.start(source, job="projects/default/jobs/shrink")

    *changes, task = service.watch()

    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    version = service.registry.get_version(task.result.version)
    roles = {file.path: file.role for file in version.files}
    assert roles == {
        "model.safetensors": FileRole.FILE_ROLE_WEIGHTS,
        "fp32.onnx": FileRole.FILE_ROLE_ONNX,
        "int8.onnx": FileRole.FILE_ROLE_ONNX,
        "report.json": FileRole.FILE_ROLE_REPORT,
        "report.png": FileRole.FILE_ROLE_PLOT,
    }
    assert version.source_version == source
    assert version.job == "projects/default/jobs/shrink"
    assert version.program == Program(module=f"{PROGRAMS}:Bars")
    check_report(service, version)
    check_serving_file(service, version)
    check_progress(changes, task)


def download(service: Service, version: Version, path: str) -> bytes:
    (artifact,) = [file.artifact for file in version.files if file.path == path]
    return service.registry.download_bytes(artifact)


def check_report(service: Service, version: Version) -> None:
    report = Report.from_json(download(service, version, "report.json"))
    pick = report.candidate(report.pick.candidate)
    assert report.source_version == version.source_version
    assert version.serving_file == pick.file
    assert version.metrics["accuracy"] == pick.metrics["accuracy"] > 0.9
    assert {"fp32.accuracy", "int8.accuracy"} <= set(version.metrics)
    assert version.labels["precision"] == pick.name
    assert download(service, version, "report.png").startswith(b"\x89PNG")


def check_serving_file(service: Service, version: Version) -> None:
    """Measure the served file again, with nothing of the service."""
    model = download(service, version, version.serving_file)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    test = Bars().data("test")
    (outputs,) = session.run(["output"], dict(test.inputs))
    accuracy = float((np.argmax(outputs, 1) == test.targets).mean())
    assert accuracy == pytest.approx(version.metrics["accuracy"], abs=1e-9)


def check_progress(changes: list[Task], task: Task) -> None:
    stages = list(dict.fromkeys(change.progress.stage for change in changes if change.progress.stage))
    assert [stage for stage in stages if stage in ("exporting", "verifying")] == ["exporting", "verifying"]
    steps = [change.progress.step for change in changes]
    assert steps == sorted(steps)
    assert task.progress.step == task.progress.total_steps == 6
    assert task.result.metrics["int8.size_bytes"] < task.result.metrics["fp32.size_bytes"]
    assert task.result.metrics["fp32.batch1.p50_ms"] > 0


def test_another_attempt_of_the_same_job_finds_the_version_of_the_first(service: Service) -> None:
    source = service.add_version()
    job = "projects/default/jobs/shrink"
    service.start(source, "first", job=job, options=FP32_ONLY)
    first = service.final("first").result.version
    service.start(source, "second", job=job, options=FP32_ONLY, epoch=2)

    assert service.final("second").result.version == first
    assert [version.name for version in service.registry.list_versions(MODEL)] == [first, source]


def test_a_start_sent_twice_is_one_task(service: Service) -> None:
    source = service.add_version("Hanging")
    service.start(source)
    assert service.start(source).name == "projects/default/tasks/t"
    with pytest.raises(AlreadyExists):
        service.start(source, options=FP32_ONLY)
    with pytest.raises(ResourceExhausted):
        service.start(source, "another")


def test_a_program_that_raises_fails_the_task_with_its_own_words_and_makes_no_version(
    service: Service,
) -> None:
    source = service.add_version("Raising")
    service.start(source, options=FP32_ONLY)

    task = service.final()

    assert task.state == TaskState.TASK_STATE_FAILED
    assert task.failure.reason == "PROGRAM_FAILED"
    assert task.failure.message == "the program's metrics() raised ZeroDivisionError: no measure of mine"
    assert "tiny_programs.py" in task.failure.detail
    assert [version.name for version in service.registry.list_versions(MODEL)] == [source]


def test_a_child_that_is_killed_fails_the_task_and_leaves_nothing_behind(service: Service) -> None:
    source = service.add_version("Hanging")
    service.start(source, options=FP32_ONLY)
    next(task for task in verifying(service))
    child = child_of(service)

    os.kill(child.pid, signal.SIGKILL)

    task = service.final()
    assert task.state == TaskState.TASK_STATE_FAILED
    assert task.failure.reason == "TASK_CRASHED"
    assert not psutil.pid_exists(child.pid)
    assert list((service.data_dir / "work").iterdir()) == []
    assert [version.name for version in service.registry.list_versions(MODEL)] == [source]
    service.start(service.add_version(), "next", options=FP32_ONLY)
    assert service.final("next").state == TaskState.TASK_STATE_SUCCEEDED, "the slot is free again"


def child_of(service: Service) -> psutil.Process:
    """Return the process that runs the program; this one may have other children, of tests before."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it ends just now
            if Path(child.cwd()).is_relative_to(service.data_dir):
                found.append(child)
    (child,) = found
    return child


def verifying(service: Service) -> Iterator[Task]:
    return (task for task in service.watch() if task.progress.stage == "verifying")


def test_a_task_that_is_stopped_ends_though_its_program_never_does(service: Service) -> None:
    service.start(service.add_version("Hanging"), options=FP32_ONLY)
    next(verifying(service))
    service.stub.StopTask(StopTaskRequest(name="projects/default/tasks/t"), timeout=10)
    assert service.final().state == TaskState.TASK_STATE_STOPPED


def test_gates_that_nothing_can_pass_leave_fp32_to_be_served(service: Service) -> None:
    options = OptimizationOptions(batch_sizes=[1], gates=Gates(max_bytes=1, min_speedup=1e6))
    service.start(service.add_version(), options=options)

    version = service.registry.get_version(service.final().result.version)

    assert version.serving_file == "fp32.onnx"
    report = Report.from_json(download(service, version, "report.json"))
    failed = [verdict for verdict in report.candidate("int8").gates if not verdict.passed]
    assert [verdict.gate for verdict in failed] == ["min_speedup", "max_bytes"]
    assert "int8.onnx" in {file.path for file in version.files}, "what failed is kept for who wants to look"


def test_an_optimized_version_can_be_optimized_again(service: Service) -> None:
    source = service.registry.get_version(service.add_version())
    onnx = File(path="fp32.onnx", artifact=service.weights, role=FileRole.FILE_ROLE_ONNX)
    optimized = Version(files=[*source.files, onnx], program=source.program, source_version=source.name)
    name = service.registry.create_version(MODEL, optimized).name
    service.start(name, options=FP32_ONLY)
    assert service.registry.get_version(service.final().result.version).source_version == name


def test_a_version_that_does_not_exist_is_not_found(service: Service) -> None:
    with pytest.raises(NotFound, match="versions/9"):
        service.start(f"{MODEL}/versions/9")


@pytest.mark.parametrize(
    "options",
    [
        OptimizationOptions(precisions=[5]),  # type: ignore[list-item]  # the mistake under test
        OptimizationOptions(gates=Gates(max_metric_drop=-1)),
        OptimizationOptions(batch_sizes=[0]),
    ],
)
def test_options_out_of_bounds_are_refused_before_anything_starts(
    options: OptimizationOptions, service: Service
) -> None:
    with pytest.raises(InvalidArgument):
        service.start(service.add_version(), options=options)
    assert service.tasks.tasks() == []


def test_a_version_without_weights_or_program_is_refused(service: Service) -> None:
    onnx = File(path="m.onnx", artifact=service.weights, role=FileRole.FILE_ROLE_ONNX)
    weights = File(path="m.safetensors", artifact=service.weights, role=FileRole.FILE_ROLE_WEIGHTS)
    for version in (
        Version(files=[onnx], program=Program(module=f"{PROGRAMS}:Bars")),
        Version(files=[weights]),
    ):
        name = service.registry.create_version(MODEL, version).name
        with pytest.raises(InvalidArgument, match="optimize a version that training made"):
            service.start(name)


@pytest.mark.parametrize(
    "program",
    [
        Program(module="os:system"),
        Program(archive=Archive(object="m:P")),
    ],
)
def test_a_program_the_operator_did_not_allow_is_refused(program: Program, service: Service) -> None:
    if program.HasField("archive"):
        program.archive.artifact = service.weights
    weights = File(path="m.safetensors", artifact=service.weights, role=FileRole.FILE_ROLE_WEIGHTS)
    name = service.registry.create_version(MODEL, Version(files=[weights], program=program)).name
    with pytest.raises(ProgramNotAllowed):
        service.start(name)
    assert service.tasks.tasks() == []


def test_the_passes_are_listed_in_their_order(service: Service) -> None:
    passes = service.stub.ListPasses(ListPassesRequest(), timeout=10).passes
    assert [one.id for one in passes] == ["export", "quantize", "verify", "choose", "report", "register"]
    assert all(one.description.endswith(".") for one in passes)
