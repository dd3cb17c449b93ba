"""The optimization service as a process of its own, with the digits example."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from headrace.optimization.v1.optimizer_pb2 import OptimizationOptions, StartTaskRequest
from headrace.optimization.v1.optimizer_pb2_grpc import OptimizerStub
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace.rpc.channel import open_channel
from headrace.testing.server import ServedChannel
from headrace.types.v1.program_pb2 import Program
from headrace.types.v1.task_pb2 import Task, TaskState, WatchTaskRequest
from headrace_examples.digits import Digits
from tests.services.parameters.parameter_process import service_process
from tests.services.registry.registry_server import serve_registry
from tests.unit.optimization.tiny_programs import save

TASK = "projects/default/tasks/digits"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ServedChannel]:
    with serve_registry(tmp_path / "registry") as channel:
        yield channel


@pytest.fixture
def version(registry: ServedChannel, tmp_path: Path) -> str:
    """Untrained digits: nothing here looks at their accuracy."""
    torch.manual_seed(0)
    save(Digits().model(), tmp_path / "model.safetensors")
    client = RegistryClient(registry)
    weights = client.upload_file("default", tmp_path / "model.safetensors")
    version = Version(
        files=[File(path="model.safetensors", artifact=weights, role=FileRole.FILE_ROLE_WEIGHTS)],
        program=Program(module="headrace_examples.digits:Digits"),
    )
    return client.create_version("projects/default/models/digits", version).name


@pytest.fixture
def process(registry: ServedChannel, tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    settings = {"REGISTRY_ADDRESS": registry.address, "DATA_DIR": str(tmp_path / "node")}
    with service_process("optimization", **settings) as served:
        yield served


def start(address: str, version: str) -> Iterator[Task]:
    """Start the task; yield its states. Streams end without an error when the service goes in order."""
    with open_channel(address) as channel:
        stub = OptimizerStub(channel)
        options = OptimizationOptions(batch_sizes=[1])
        stub.StartTask(StartTaskRequest(name=TASK, epoch=1, version=version, options=options), timeout=20)
        for change in stub.WatchTask(WatchTaskRequest(name=TASK), timeout=100):
            yield change.task


def test_the_digits_example_is_optimized_by_a_service_with_default_settings(
    process: tuple[str, "subprocess.Popen[str]"], version: str, registry: ServedChannel
) -> None:
    *_, task = start(process[0], version)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    made = RegistryClient(registry).get_version(task.result.version)
    sizes = {file.path: file.size_bytes for file in made.files}
    assert sizes["int8.onnx"] < 0.35 * sizes["fp32.onnx"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_pipeline_outlives_its_service(
    number: signal.Signals, process: tuple[str, "subprocess.Popen[str]"], version: str
) -> None:
    address, service = process
    states = start(address, version)
    next(task for task in states if task.progress.stage == "exporting")
    (pipeline,) = psutil.Process(service.pid).children()

    os.kill(service.pid, number)

    status = service.wait(60)
    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        pipeline.wait(60)
    assert not pipeline.is_running()
    states.close()  # type: ignore[attr-defined]  # a generator is what `start` makes
