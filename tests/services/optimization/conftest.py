"""A registry with a trained version in it, and an optimization service that works for it."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.optimization.v1.optimizer_pb2 import OptimizationOptions, StartTaskRequest
from headrace.optimization.v1.optimizer_pb2_grpc import OptimizerStub, add_OptimizerServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import TaskTable
from headrace.testing import serve
from headrace.types.v1.program_pb2 import Program
from headrace.types.v1.task_pb2 import Task, WatchTaskRequest
from headrace_optimization.servicer import OptimizerServicer
from tests.services.registry.registry_server import serve_registry
from tests.unit.optimization.tiny_programs import Bars, save, train

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = "tests.unit.optimization.tiny_programs"
MODEL = "projects/default/models/bars"


@dataclass(frozen=True)
class Service:
    """The service as a caller sees it, and the registry beside it."""

    stub: OptimizerStub
    tasks: TaskService
    registry: RegistryClient
    weights: str  # artifact name
    data_dir: Path

    def add_version(self, program: str = "Bars") -> str:
        """Register a trained version as training does; return its name."""
        version = Version(
            files=[File(path="model.safetensors", artifact=self.weights, role=FileRole.FILE_ROLE_WEIGHTS)],
            program=Program(module=f"{PROGRAMS}:{program}"),
        )
        return self.registry.create_version(MODEL, version).name

    def start(self, version: str, task: str = "t", **fields: object) -> Task:
        name = f"projects/default/tasks/{task}"
        options = OptimizationOptions(batch_sizes=[1, 4])
        request: dict[str, object] = {"name": name, "epoch": 1, "version": version, "options": options}
        return self.stub.StartTask(StartTaskRequest(**(request | fields)), timeout=10)  # type: ignore[arg-type]  # fields by name

    def watch(self, task: str = "t") -> Iterator[Task]:
        """Yield every state of a task until it is final."""
        request = WatchTaskRequest(name=f"projects/default/tasks/{task}")
        return (change.task for change in self.stub.WatchTask(request, timeout=100))

    def final(self, task: str = "t") -> Task:
        *_, last = self.watch(task)
        return last


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(train(Bars(), 60), path)
    return path


@pytest.fixture
def service(tmp_path: Path, weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with serve_registry(tmp_path / "registry") as channel:
        registry = RegistryClient(channel)
        context = {
            "registry_address": channel.address,
            "allowed_programs": [PROGRAMS],
            "allow_archives": False,
            "object_storage": {},
            "threads": 1,
        }
        launch = Launcher(
            "headrace_optimization.child", tmp_path / "node", context, stop_grace_s=0.5, kill_grace_s=0.5
        )
        tasks = TaskService(TaskTable(slots=1), launch, time.time)
        servicer = OptimizerServicer(
            tasks, registry.get_version, allowed_modules=[PROGRAMS], allow_archives=False
        )
        weights = registry.upload_file("default", weights_file)
        with serve(lambda server: add_OptimizerServicer_to_server(servicer, server)) as optimizer:
            yield Service(OptimizerStub(optimizer), tasks, registry, weights, tmp_path / "node")
        tasks.close(0)
