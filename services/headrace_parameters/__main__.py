"""`python -m headrace_parameters`: one process of the parameter service."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import torch

from headrace.config import load_or_exit
from headrace.node import Agent
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1.parameters_pb2_grpc import add_ParametersServicer_to_server
from headrace.parameters.v1.stores_pb2_grpc import add_StoresServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1 import nodes_pb2
from headrace_parameters.metrics import ParameterMetrics
from headrace_parameters.parameters_servicer import ParametersServicer
from headrace_parameters.settings import Settings
from headrace_parameters.snapshots import Snapshots
from headrace_parameters.stores_servicer import StoresServicer
from headrace_parameters.table import StoreTable


def main() -> None:
    """Serve until told to stop."""
    keep_freed_memory()
    settings = load_or_exit(Settings)
    torch.set_num_threads(settings.threads)
    with Process("parameters", settings) as process:
        table = StoreTable(
            max_stores=settings.slots, max_bytes=settings.max_bytes, now=lambda: datetime.now(UTC)
        )
        snapshots = _snapshots(process, settings)
        parameters = ParametersServicer(table, ParameterMetrics(process.metrics, table.all))
        process.serve(
            lambda server: add_StoresServicer_to_server(StoresServicer(table, snapshots), server),
            lambda server: add_ParametersServicer_to_server(parameters, server),
            on_listening=lambda address: _join(process, settings, table, address),
        )


def _snapshots(process: Process, settings: Settings) -> Snapshots:
    if not settings.registry_address:
        return Snapshots(None)
    channel = open_channel(settings.registry_address)
    process.closing(channel.close)
    return Snapshots(RegistryClient(channel))


def _join(process: Process, settings: Settings, table: StoreTable, address: str) -> None:
    """Attach to the scheduler, if there is one, and say goodbye to it and to all waiting calls at the end."""
    agent = Agent(
        settings.scheduler_address,
        settings.hello("parameters", nodes_pb2.NODE_KIND_PARAMETERS, address),
        report=nodes_pb2.Report,  # a store is no task: the scheduler placed it and knows it
        forget=_forget,
    )
    agent.start()
    process.closing(agent.close)

    def leave() -> None:
        process.stopping.wait()
        table.drain()  # first, and quick: workers that wait shall look for another process
        agent.leaving()

    leaving = threading.Thread(target=leave, name="leave", daemon=True)
    leaving.start()
    process.closing(leaving.join)  # before the agent closes


def _forget(tasks: Sequence[str]) -> None:
    """Take the names of tasks the scheduler has recorded: there are none on such a node."""


if __name__ == "__main__":
    main()
