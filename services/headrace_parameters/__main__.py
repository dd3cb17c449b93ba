"""`python -m headrace_parameters`: one process of the parameter service."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import structlog
import torch

from headrace.config import load_or_exit
from headrace.node import Agent, join
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.recoding import (
    add_parameters_servicer,
    add_replication_servicer,
    add_resharding_servicer,
    add_rows_servicer,
)
from headrace.parameters.v1.shared_memory_pb2_grpc import add_SharedMemoryServicer_to_server
from headrace.parameters.v1.shared_rows_pb2_grpc import add_SharedRowsServicer_to_server
from headrace.parameters.v1.stores_pb2_grpc import add_StoresServicer_to_server
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1 import nodes_pb2
from headrace_optimizers.loading import loader
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.journal.journal import Limits
from headrace_parameters.journal.shelf import Shelf
from headrace_parameters.metrics import journal_observers
from headrace_parameters.node_report import report_of
from headrace_parameters.parameters_servicer import ParametersServicer
from headrace_parameters.peers import Peers
from headrace_parameters.quotas import Quotas
from headrace_parameters.replication_servicer import ReplicationServicer
from headrace_parameters.resharding_servicer import ReshardingServicer
from headrace_parameters.row_segments import RowSegments
from headrace_parameters.rows_servicer import RowsServicer
from headrace_parameters.settings import Settings
from headrace_parameters.shared_memory_servicer import SharedMemoryServicer
from headrace_parameters.shared_rows_servicer import SharedRowsServicer
from headrace_parameters.snapshots import Snapshots
from headrace_parameters.startup import leave_out_compiler
from headrace_parameters.store_metrics import measured
from headrace_parameters.stores_servicer import StoresServicer
from headrace_parameters.table import StoreTable
from headrace_parameters.wire import config_from_proto, recovered_to_proto

log = structlog.get_logger(__name__)

SWEEP_S = 1.0  # how long memory of a worker that was killed is kept


def main() -> None:
    """Serve until told to stop."""
    keep_freed_memory()
    leave_out_compiler()
    settings = load_or_exit(Settings)
    torch.set_num_threads(settings.threads)
    with Process("parameters", settings) as process:
        quotas = Quotas(*settings.quotas(), time.monotonic)
        table = _table(process, settings, quotas)
        # Before anyone can ask: a store that is not there yet would be one that is lost.
        recovered = [recovered_to_proto(store) for store in table.recover()]
        stores = StoresServicer(table, _snapshots(process, settings), loader(settings.allowed_updates))
        meter = measured(process.metrics, table, quotas)
        parameters = ParametersServicer(table, meter)
        rows = RowsServicer(table, meter)
        gradients = GradientSegments(table.get) if settings.shared_memory else None
        replication = ReplicationServicer(table, share=settings.shared_memory)
        row_segments = RowSegments(table.get) if settings.shared_memory else None
        if gradients is not None and row_segments is not None:
            _sweep(process, gradients, row_segments)
        resharding = ReshardingServicer(table, Peers())
        resharding.resume()
        process.serve(
            lambda server: add_resharding_servicer(resharding, server),
            lambda server: add_StoresServicer_to_server(stores, server),
            lambda server: add_parameters_servicer(parameters, server),
            lambda server: add_SharedMemoryServicer_to_server(
                SharedMemoryServicer(parameters, table.get, gradients, server.lanes), server
            ),
            lambda server: add_rows_servicer(rows, server),
            lambda server: add_SharedRowsServicer_to_server(SharedRowsServicer(rows, row_segments), server),
            lambda server: add_replication_servicer(replication, server),
            on_listening=lambda address: _join(process, settings, table, address, recovered),
        )


def _table(process: Process, settings: Settings, quotas: Quotas) -> StoreTable:
    """Build the table of stores, which lets go of their files at the end and removes those nobody wants."""
    limits = Limits(settings.snapshot_log_bytes, settings.snapshot_log_pushes)
    read = partial(config_from_proto, load=loader(settings.allowed_updates))
    shelf = Shelf(settings.data_dir, limits, read, journal_observers(process.metrics))
    table = StoreTable(
        max_stores=settings.slots,
        max_bytes=settings.max_bytes,
        now=lambda: datetime.now(UTC),
        shelf=shelf,
        project_bytes=lambda project: quotas.of(project).max_bytes,
    )
    process.closing(table.close)

    def remove_orphans() -> None:
        if not process.stopping.wait(settings.orphan_hours * 3600) and (swept := table.sweep()):
            log.warning("orphans_removed", stores=[str(name) for name in swept], hours=settings.orphan_hours)

    threading.Thread(target=remove_orphans, name="orphans", daemon=True).start()
    return table


def _sweep(process: Process, *segments: GradientSegments | RowSegments) -> None:
    """Notice workers and stores that are gone."""

    def sweep() -> None:
        while not process.stopping.wait(SWEEP_S):
            for each in segments:
                each.sweep()

    threading.Thread(target=sweep, name="sweep", daemon=True).start()


def _snapshots(process: Process, settings: Settings) -> Snapshots:
    if not settings.registry_address:
        return Snapshots(None)
    channel = open_channel(settings.registry_address)
    process.closing(channel.close)
    return Snapshots(RegistryClient(channel))


def _join(
    process: Process,
    settings: Settings,
    table: StoreTable,
    address: str,
    recovered: Sequence[nodes_pb2.RecoveredStore],
) -> None:
    """Be a node, and say goodbye to the scheduler and to all waiting calls at the end."""
    hello = settings.hello("parameters", nodes_pb2.NODE_KIND_PARAMETERS, address)
    hello.stores.extend(recovered)
    agent = Agent(
        settings.scheduler_address,
        hello,
        report=lambda: report_of(table.all()),
    )

    def leave() -> None:
        table.drain()  # first, and quick: workers that wait shall look for another process
        agent.leaving()

    join(process, agent, leave)


if __name__ == "__main__":
    main()
