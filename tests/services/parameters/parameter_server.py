"""A parameter process that is served in the process of a test, and requests to make stores in it."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from headrace.errors import NotFound
from headrace.parameters.client import StoresClient
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.recoding import (
    add_parameters_servicer,
    add_replication_servicer,
    add_resharding_servicer,
    add_rows_servicer,
    replication_stub,
)
from headrace.parameters.v1 import assignment_pb2, stores_pb2
from headrace.parameters.v1.replication_pb2 import AssignRequest
from headrace.parameters.v1.shared_memory_pb2_grpc import add_SharedMemoryServicer_to_server
from headrace.parameters.v1.shared_rows_pb2_grpc import add_SharedRowsServicer_to_server
from headrace.parameters.v1.stores_pb2_grpc import add_StoresServicer_to_server
from headrace.testing import serve
from headrace.testing.server import ServedChannel
from headrace_optimizers.loading import loader
from headrace_parameters.core.quota import ProjectQuota
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.journal.journal import Limits
from headrace_parameters.journal.shelf import Shelf
from headrace_parameters.metrics import journal_observers
from headrace_parameters.parameters_servicer import ParametersServicer
from headrace_parameters.peers import Peers
from headrace_parameters.quotas import Quotas
from headrace_parameters.replication_servicer import ReplicationServicer
from headrace_parameters.resharding_servicer import ReshardingServicer
from headrace_parameters.row_segments import RowSegments
from headrace_parameters.rows_servicer import RowsServicer
from headrace_parameters.shared_memory_servicer import SharedMemoryServicer
from headrace_parameters.shared_rows_servicer import SharedRowsServicer
from headrace_parameters.snapshots import Snapshots
from headrace_parameters.store_metrics import measured
from headrace_parameters.stores_servicer import StoresServicer
from headrace_parameters.table import StoreTable
from headrace_parameters.wire import config_from_proto

NO_FOLDER = Path(os.devnull, "none")  # where nothing can be kept
NAME = "projects/default/stores/run"
# Of a client whose call shall fail for want of time: long enough that a busy machine does everything else in it.
IMPATIENT_S = 2.0
LAYOUT = FlatLayout((TensorSpec("weight", (3, 2)), TensorSpec("bias", ()), TensorSpec("scale", (4,))))


def create_request(
    *,
    name: str = NAME,
    epoch: int = 1,
    shard_index: int = 0,
    shard_count: int = 1,
    worker_count: int = 1,
    consistency: stores_pb2.Consistency.ValueType = stores_pb2.CONSISTENCY_BSP,
    learning_rate: float = 0.5,
    momentum: float = 0.0,
    snapshots: Sequence[str] = (),
    staleness_bound: int = 0,
    backup_workers: int = 0,
    durability: stores_pb2.Durability.ValueType = stores_pb2.DURABILITY_MEMORY,
    assignment: assignment_pb2.Assignment | None = None,
) -> stores_pb2.CreateStoreRequest:
    return stores_pb2.CreateStoreRequest(
        name=name,
        epoch=epoch,
        shard_index=shard_index,
        shard_count=shard_count,
        worker_count=worker_count,
        consistency=consistency,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=learning_rate, momentum=momentum)),
        snapshots=snapshots,
        staleness_bound=staleness_bound,
        backup_workers=backup_workers,
        durability=durability,
        assignment=assignment,
    )


def flat(value: float = 0.0) -> Floats:
    return np.full(LAYOUT.size, value, np.float32)


class FolderOfArtifacts:
    """The artifacts of a registry, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def upload_file(self, project: str, path: Path) -> str:
        digest = sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, self._folder / digest)
        return f"projects/{project}/artifacts/{digest}"

    def download_file(self, name: str, path: Path) -> None:
        stored = self._folder / name.rpartition("/")[2]
        if not stored.exists():
            raise NotFound(f"{name} does not exist")
        shutil.copy(stored, path)


class ParameterServer:
    """A parameter process that is served in this one."""

    def __init__(
        self,
        channel: ServedChannel,
        table: StoreTable,
        metrics: CollectorRegistry,
        gradients: GradientSegments | None,
        row_segments: RowSegments | None,
    ) -> None:
        self.clients = ExitStack()  # closed before the channel is
        self.gradients = gradients
        self.row_segments = row_segments
        self.channel = channel
        self.table = table
        self.metrics = metrics
        self.stores = StoresClient(channel, timeout_s=60)  # a table's loops may be compiled first
        self._replication = replication_stub(channel)

    def assign(self, assignment: assignment_pb2.Assignment, epoch: int = 1) -> stores_pb2.Store:
        request = AssignRequest(store=NAME, epoch=epoch, assignment=assignment)
        return self._replication.Assign(request, timeout=10)

    def counted(self, metric: str) -> float:
        return self.metrics.get_sample_value(f"headrace_parameters_{metric}") or 0.0


@contextmanager
def parameter_server(
    artifacts: FolderOfArtifacts | None = None,
    *,
    max_stores: int = 4,
    max_bytes: int = 1 << 20,
    folder: Path = NO_FOLDER,
    log_pushes: int = 1000,
    shared_memory: bool = True,
    peers: Peers | None = None,
    quotas: Quotas | None = None,
    allowed_updates: Sequence[str] = (),
) -> Iterator[ParameterServer]:
    load = loader(allowed_updates)
    quotas = quotas or Quotas(ProjectQuota(), {}, time.monotonic)
    metrics = CollectorRegistry()
    shelf = Shelf(
        folder, Limits(1 << 30, log_pushes), partial(config_from_proto, load=load), journal_observers(metrics)
    )
    table = StoreTable(
        max_stores=max_stores,
        max_bytes=max_bytes,
        now=lambda: datetime.now(UTC),
        shelf=shelf,
        project_bytes=lambda project: quotas.of(project).max_bytes,
    )
    table.recover()
    meter = measured(metrics, table, quotas)
    parameters = ParametersServicer(table, meter)
    rows = RowsServicer(table, meter)
    stores = StoresServicer(table, Snapshots(artifacts), load)
    gradients = GradientSegments(table.get) if shared_memory else None
    row_segments = RowSegments(table.get) if shared_memory else None
    replication = ReplicationServicer(table, share=shared_memory)
    resharding = ReshardingServicer(table, peers or Peers())
    resharding.resume()
    with serve(
        lambda server: add_parameters_servicer(parameters, server),
        lambda server: add_StoresServicer_to_server(stores, server),
        lambda server: add_resharding_servicer(resharding, server),
        lambda server: add_SharedMemoryServicer_to_server(
            SharedMemoryServicer(parameters, table.get, gradients, server.lanes), server
        ),
        lambda server: add_rows_servicer(rows, server),
        lambda server: add_SharedRowsServicer_to_server(SharedRowsServicer(rows, row_segments), server),
        lambda server: add_replication_servicer(replication, server),
    ) as channel:
        try:
            server = ParameterServer(channel, table, metrics, gradients, row_segments)
            with server.clients:
                yield server
        finally:
            table.drain()
            table.close()
