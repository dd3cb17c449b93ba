"""The process of the optimization service: `python -m headrace_optimization`; `--help` lists its settings."""

import time

from headrace.config import load_or_exit
from headrace.node import join_with_tasks
from headrace.optimization.v1.optimizer_pb2_grpc import add_OptimizerServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1.nodes_pb2 import NodeKind
from headrace.tasks.inspection import InspectionServicer
from headrace.tasks.limits import hide_environment
from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import TaskTable
from headrace.tasks.v1.inspection_pb2_grpc import add_InspectionServicer_to_server
from headrace_optimization.servicer import OptimizerServicer
from headrace_optimization.settings import Settings

CHILD = "headrace_optimization.child"


def main() -> None:
    """Serve until told to stop."""
    settings = load_or_exit(Settings)
    hide_environment()
    with Process("optimization", settings) as process:
        launcher = _launcher(settings)
        tasks = TaskService(TaskTable(settings.slots), launcher, clock=time.time)
        inspection = InspectionServicer(tasks, launcher.records)
        channel = open_channel(settings.registry_address)
        process.closing(channel.close)
        servicer = OptimizerServicer(
            tasks,
            RegistryClient(channel).get_version,
            allowed_modules=settings.allowed_programs,
            allow_archives=settings.allow_archives,
        )
        process.serve(
            lambda server: add_OptimizerServicer_to_server(servicer, server),
            lambda server: add_InspectionServicer_to_server(inspection, server),
            on_listening=lambda address: _join(process, settings, tasks, address),
        )


def _launcher(settings: Settings) -> Launcher:
    context = {
        "registry_address": settings.registry_address,
        "allowed_programs": settings.allowed_programs,
        "allow_archives": settings.allow_archives,
        "object_storage": settings.object_storage,
        "threads": settings.threads,
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
    hello = settings.hello("optimization", NodeKind.NODE_KIND_OPTIMIZATION, address)
    join_with_tasks(process, settings, hello, tasks)


if __name__ == "__main__":
    main()
