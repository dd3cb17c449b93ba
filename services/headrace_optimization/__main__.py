"""The process of the optimization service: `python -m headrace_optimization`; `--help` lists its settings."""

import threading
import time

from headrace.config import load_or_exit
from headrace.node import Agent
from headrace.optimization.v1.optimizer_pb2_grpc import add_OptimizerServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1.nodes_pb2 import NodeKind, Report
from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import TaskTable
from headrace_optimization.servicer import OptimizerServicer
from headrace_optimization.settings import Settings

CHILD = "headrace_optimization.child"
TASKS_END_S = (
    2.0  # a pipeline asks between passes whether to end; it can be run again, so nobody waits for it longer
)


def main() -> None:
    """Serve until told to stop."""
    settings = load_or_exit(Settings)
    with Process("optimization", settings) as process:
        tasks = TaskService(TaskTable(settings.slots), _launcher(settings), clock=time.time)
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
            on_listening=lambda address: _attach(settings, address, tasks, process),
        )


def _launcher(settings: Settings) -> Launcher:
    context = {
        "registry_address": settings.registry_address,
        "allowed_programs": settings.allowed_programs,
        "allow_archives": settings.allow_archives,
        "threads": settings.threads,
    }
    return Launcher(CHILD, settings.data_dir, context)


def _attach(settings: Settings, address: str, tasks: TaskService, process: Process) -> None:
    """Join the scheduler, if one is named, for as long as the process lives."""
    agent = Agent(
        settings.scheduler_address,
        settings.hello("optimization", NodeKind.NODE_KIND_OPTIMIZATION, address),
        report=lambda: Report(tasks=tasks.tasks()),
        forget=tasks.forget,
    )
    tasks.on_change(agent.changed)
    agent.start()

    def leave() -> None:
        """End the pipelines while the server still drains, so that who watches them sees how they end."""
        process.stopping.wait()
        agent.leaving()
        tasks.close(settings.drain_s)

    leaving = threading.Thread(target=leave, name="leave")
    leaving.start()
    process.closing(agent.close)
    process.closing(leaving.join)


if __name__ == "__main__":
    main()
