"""Tasks and what is kept of them, behind a real server."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from headrace.tasks.inspection import InspectionServicer
from headrace.tasks.limits import Limits
from headrace.tasks.process import Launcher
from headrace.tasks.records import Kept
from headrace.tasks.service import TaskService
from headrace.tasks.table import FINAL, TaskTable
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub, add_InspectionServicer_to_server
from headrace.testing import serve
from headrace.types.v1.task_pb2 import Task

HERE = Path(__file__).parent
# The task's program, then wherever this process itself looks first.
PYTHON_PATH = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
PROJECT = "projects/default/tasks"
LOG_BYTES = 256 << 10


class TaskNode:
    """Runs `task_program`; `inspection` is a stub of its own server."""

    def __init__(self, tasks: TaskService, inspection: InspectionStub) -> None:
        self.tasks, self.inspection = tasks, inspection

    def start(self, do: str, *, name: str = "t", epoch: int = 1, **fields: float) -> str:
        request = Struct()
        request.update({"do": do, **fields})
        return self.tasks.start(f"{PROJECT}/{name}", epoch, request).name

    def until_progress(self, name: str) -> Task:
        return next(task for task in self.tasks.watch(name, 0, lambda: True) if task.HasField("progress"))

    def end(self, name: str) -> Task:
        *_, last = self.tasks.watch(name, 0, lambda: True)
        assert last.state in FINAL
        return last


@contextmanager
def task_node(folder: Path, limits: Limits | None = None) -> Iterator[TaskNode]:
    launch = Launcher(
        "task_program",
        folder,
        stop_grace_s=2,
        kill_grace_s=0.2,
        kept=Kept(log_bytes=LOG_BYTES),
        limits=limits,
    )
    tasks = TaskService(TaskTable(slots=2), launch, time.time)
    servicer = InspectionServicer(tasks, launch.records)
    with serve(lambda server: add_InspectionServicer_to_server(servicer, server), timeout_s=20) as channel:
        try:
            yield TaskNode(tasks, InspectionStub(channel))
        finally:
            tasks.close(0)
