"""The process of a training worker: `python -m headrace_training`; `--help` lists its settings."""

import time

from headrace.config import load_or_exit
from headrace.node import join_with_tasks
from headrace.rpc.process import Process
from headrace.scheduler.v1.nodes_pb2 import NodeKind
from headrace.tasks.inspection import InspectionServicer
from headrace.tasks.limits import hide_environment
from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import TaskTable
from headrace.tasks.v1.inspection_pb2_grpc import add_InspectionServicer_to_server
from headrace.training.v1.workers_pb2_grpc import add_WorkersServicer_to_server
from headrace_training.servicer import WorkersServicer
from headrace_training.settings import Settings

CHILD = "headrace_training.child"


def main() -> None:
    """Serve until told to stop."""
    settings = load_or_exit(Settings)
    hide_environment()
    with Process("training", settings) as process:
        launcher = _launcher(settings)
        tasks = TaskService(TaskTable(settings.slots), launcher, clock=time.time)
        inspection = InspectionServicer(tasks, launcher.records)
        servicer = WorkersServicer(
            tasks,
            allowed_modules=settings.allowed_programs,
            allowed_updates=settings.allowed_updates,
            allow_archives=settings.allow_archives,
            has_registry=bool(settings.registry_address),
        )
        process.serve(
            lambda server: add_WorkersServicer_to_server(servicer, server),
            lambda server: add_InspectionServicer_to_server(inspection, server),
            on_listening=lambda address: _join(process, settings, tasks, address),
        )


def _launcher(settings: Settings) -> Launcher:
    context = {
        "registry_address": settings.registry_address,
        "allowed_programs": settings.allowed_programs,
        "allowed_updates": settings.allowed_updates,
        "allow_archives": settings.allow_archives,
        "object_storage": settings.object_storage,
        "step_timeout_s": settings.step_timeout_s,
        "collective_host": settings.host,
        "tensorboard_dir": settings.tensorboard_dir,
        "mlflow_tracking_uri": settings.mlflow_tracking_uri,
        "measure_utilization": settings.measure_utilization,
        "peak_flops": settings.peak_flops,
        "data_dir": str(settings.data_dir.resolve()),
        "scheduler_address": settings.scheduler_address,
    }
    return Launcher(
        CHILD,
        settings.data_dir,
        context,
        kept=settings.kept,
        limits=settings.task_limits,
        frozen_s=settings.frozen_s,
    )


def _join(process: Process, settings: Settings, tasks: TaskService, address: str) -> None:
    hello = settings.hello("training", NodeKind.NODE_KIND_TRAINING, address)
    join_with_tasks(process, settings, hello, tasks)


if __name__ == "__main__":
    main()
