"""The scheduler as a process: `python -m headrace_scheduler`."""

import threading
import time

import grpc

from headrace.config import load_or_exit
from headrace.database import claimed_by, migrate, open_engine
from headrace.rpc.channel import open_channel
from headrace.rpc.process import Process
from headrace.scheduler.v1.cluster_pb2_grpc import add_ClusterServicer_to_server
from headrace.scheduler.v1.deployments_pb2_grpc import add_DeploymentsServicer_to_server
from headrace.scheduler.v1.jobs_pb2_grpc import add_JobsServicer_to_server
from headrace.scheduler.v1.nodes_pb2_grpc import add_NodesServicer_to_server
from headrace.tasks.v1.inspection_pb2_grpc import add_InspectionServicer_to_server
from headrace_scheduler import metrics
from headrace_scheduler.cluster_servicer import ClusterServicer
from headrace_scheduler.deployments_servicer import DeploymentsServicer
from headrace_scheduler.engine import Engine
from headrace_scheduler.inspection_servicer import InspectionServicer
from headrace_scheduler.jobs_servicer import JobsServicer
from headrace_scheduler.nodes_servicer import NodesServicer
from headrace_scheduler.settings import Settings


def main() -> None:
    """Serve until a signal comes."""
    settings = load_or_exit(Settings)
    with Process("scheduler", settings) as process:
        elsewhere = "choose another folder with HEADRACE_SCHEDULER_DATA_DIR"
        process.holding(claimed_by("scheduler", settings.database_url, elsewhere))
        database = open_engine(settings.database_url)
        process.closing(database.dispose)
        migrate(database, "headrace_scheduler")
        engine = Engine(
            database,
            lease_s=settings.lease_s,
            registry_address=settings.registry_address,
            now=time.time,
            replica_patience_s=settings.replica_patience_s,
        )
        metrics.register(process.metrics, engine)
        engine.start()
        process.closing(engine.close)
        registry = _registry(process, settings)
        watches = threading.BoundedSemaphore(settings.max_watches)
        nodes = NodesServicer(engine, lease_s=settings.lease_s, max_nodes=settings.max_nodes)
        process.serve(
            lambda server: add_JobsServicer_to_server(JobsServicer(engine, watches), server),
            lambda server: add_DeploymentsServicer_to_server(
                DeploymentsServicer(engine, watches, registry), server
            ),
            lambda server: add_ClusterServicer_to_server(
                ClusterServicer(engine, settings.registry_address), server
            ),
            lambda server: add_NodesServicer_to_server(nodes, server),
            lambda server: add_InspectionServicer_to_server(InspectionServicer(engine, watches), server),
        )


def _registry(process: Process, settings: Settings) -> grpc.Channel | None:
    if not settings.registry_address:
        return None
    channel = open_channel(settings.registry_address)
    process.closing(channel.close)
    return channel


if __name__ == "__main__":
    main()
