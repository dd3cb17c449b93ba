"""`python -m headrace_parameters`: one process of the parameter service."""

import threading
from datetime import UTC, datetime

import torch

from headrace.config import load_or_exit
from headrace.node import Agent, join
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.recoding import add_parameters_servicer
from headrace.parameters.v1.shared_memory_pb2_grpc import add_SharedMemoryServicer_to_server
from headrace.parameters.v1.stores_pb2_grpc import add_StoresServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1 import nodes_pb2
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.metrics import ParameterMetrics
from headrace_parameters.parameters_servicer import ParametersServicer
from headrace_parameters.settings import Settings
from headrace_parameters.shared_memory_servicer import SharedMemoryServicer
from headrace_parameters.snapshots import Snapshots
from headrace_parameters.stores_servicer import StoresServicer
from headrace_parameters.table import StoreTable

SWEEP_S = 1.0  # how long memory of a worker that was killed is kept


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
        gradients = GradientSegments(table.get) if settings.shared_memory else None
        shared_memory = SharedMemoryServicer(parameters, table.get, gradients)
        if gradients is not None:
            _sweep(process, gradients)
        process.serve(
            lambda server: add_StoresServicer_to_server(StoresServicer(table, snapshots), server),
            lambda server: add_parameters_servicer(parameters, server),
            lambda server: add_SharedMemoryServicer_to_server(shared_memory, server),
            on_listening=lambda address: _join(process, settings, table, address),
        )


def _sweep(process: Process, gradients: GradientSegments) -> None:
    """Notice workers and stores that are gone."""

    def sweep() -> None:
        while not process.stopping.wait(SWEEP_S):
            gradients.sweep()

    threading.Thread(target=sweep, name="sweep", daemon=True).start()


def _snapshots(process: Process, settings: Settings) -> Snapshots:
    if not settings.registry_address:
        return Snapshots(None)
    channel = open_channel(settings.registry_address)
    process.closing(channel.close)
    return Snapshots(RegistryClient(channel))


def _join(process: Process, settings: Settings, table: StoreTable, address: str) -> None:
    """Be a node, and say goodbye to the scheduler and to all waiting calls at the end."""
    agent = Agent(
        settings.scheduler_address,
        settings.hello("parameters", nodes_pb2.NODE_KIND_PARAMETERS, address),
        report=nodes_pb2.Report,  # a store is no task: the scheduler placed it and knows it
    )

    def leave() -> None:
        table.drain()  # first, and quick: workers that wait shall look for another process
        agent.leaving()

    join(process, agent, leave)


if __name__ == "__main__":
    main()
