"""A scheduler in the process of a test, and one in a process of its own that can be killed."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from headrace.database import migrate, open_engine
from headrace.rpc.channel import open_channel
from headrace.scheduler.v1 import (
    cluster_pb2_grpc,
    deployments_pb2,
    deployments_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    nodes_pb2_grpc,
)
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub, add_InspectionServicer_to_server
from headrace.testing import serve
from headrace_scheduler.cluster_servicer import ClusterServicer
from headrace_scheduler.deployments_servicer import DeploymentsServicer
from headrace_scheduler.engine import Engine
from headrace_scheduler.inspection_servicer import InspectionServicer
from headrace_scheduler.jobs_servicer import JobsServicer
from headrace_scheduler.nodes_servicer import NodesServicer

# Longer than nodes pause before they attach again (headrace.node.agent.PAUSES), and than a busy machine keeps a report waiting.
LEASE_S = 5.0
WAIT_S = 60.0  # bounds a hang; a busy machine may take its time
PROJECT = "projects/default"


class Scheduler:
    """Stubs, and the few calls every test makes."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self.address = address
        self.jobs = jobs_pb2_grpc.JobsStub(channel)
        self.deployments = deployments_pb2_grpc.DeploymentsStub(channel)
        self.cluster = cluster_pb2_grpc.ClusterStub(channel)
        self.nodes = nodes_pb2_grpc.NodesStub(channel)
        self.inspection = InspectionStub(channel)

    def train(
        self, job_id: str = "", *, workers: int = 1, shards: int = 1, request_id: str = "", **job: Any
    ) -> jobs_pb2.Job:
        request = jobs_pb2.CreateJobRequest(parent=PROJECT, job_id=job_id, request_id=request_id)
        request.job.MergeFrom(jobs_pb2.Job(train=train_spec(workers, shards), **job))
        return self.jobs.CreateJob(request)

    def get(self, job: str) -> jobs_pb2.Job:
        return self.jobs.GetJob(jobs_pb2.GetJobRequest(name=f"{PROJECT}/jobs/{job}"))

    def wait_for_job(self, job: str, condition: Callable[[jobs_pb2.Job], bool]) -> jobs_pb2.Job:
        """Watch a job until it is as expected."""
        request = jobs_pb2.WatchJobRequest(name=f"{PROJECT}/jobs/{job}")
        last = jobs_pb2.Job()
        call = self.jobs.WatchJob(request, timeout=WAIT_S, wait_for_ready=True)
        try:
            for response in call:
                last = response.job
                if condition(last):
                    return last
        finally:
            call.cancel()
        raise AssertionError(f"it ended otherwise: {last}")

    def wait_for_state(self, job: str, state: str) -> jobs_pb2.Job:
        wanted = jobs_pb2.JobState.Value(f"JOB_STATE_{state}")
        return self.wait_for_job(job, lambda seen: seen.state == wanted)

    def wait_for_deployment(
        self, deployment: str, condition: Callable[[deployments_pb2.Deployment], bool]
    ) -> deployments_pb2.Deployment:
        """Watch a deployment until it is as expected."""
        request = deployments_pb2.WatchDeploymentRequest(name=f"{PROJECT}/deployments/{deployment}")
        call = self.deployments.WatchDeployment(request, timeout=WAIT_S, wait_for_ready=True)
        try:
            return next(response.deployment for response in call if condition(response.deployment))
        finally:
            call.cancel()


def train_spec(workers: int = 1, shards: int = 1) -> jobs_pb2.TrainSpec:
    spec = jobs_pb2.TrainSpec(model=f"{PROJECT}/models/digits", workers=workers, shards=shards)
    spec.program.module = "headrace_examples.digits:Digits"
    spec.options.steps, spec.options.batch_size = 100, 32
    return spec


@contextmanager
def scheduler_server(
    folder: Path, registry_address: str = "", *, max_watches: int = 8, max_nodes: int = 16
) -> Iterator[Scheduler]:
    """Serve a scheduler from this process."""
    database = open_engine(f"sqlite:///{folder / 'scheduler.db'}")
    migrate(database, "headrace_scheduler")
    engine = Engine(database, lease_s=LEASE_S, registry_address=registry_address, now=time.time)
    watches = threading.BoundedSemaphore(max_watches)
    registry = open_channel(registry_address) if registry_address else None
    nodes = NodesServicer(engine, lease_s=LEASE_S, max_nodes=max_nodes)
    engine.start()
    with serve(
        lambda server: jobs_pb2_grpc.add_JobsServicer_to_server(JobsServicer(engine, watches), server),
        lambda server: deployments_pb2_grpc.add_DeploymentsServicer_to_server(
            DeploymentsServicer(engine, watches, registry), server
        ),
        lambda server: cluster_pb2_grpc.add_ClusterServicer_to_server(
            ClusterServicer(engine, registry_address), server
        ),
        lambda server: nodes_pb2_grpc.add_NodesServicer_to_server(nodes, server),
        lambda server: add_InspectionServicer_to_server(InspectionServicer(engine, watches), server),
    ) as channel:
        try:
            yield Scheduler(channel, channel.address)
        finally:
            engine.close()
    database.dispose()


class SchedulerProcess:
    """`python -m headrace_scheduler` on a fixed port, so that it is found again after a restart."""

    def __init__(self, folder: Path, address: str, registry_address: str) -> None:
        settings = {
            "ADDRESS": address,
            "METRICS_ADDRESS": "",
            "LOG_FORMAT": "json",
            "DATA_DIR": str(folder),
            "REGISTRY_ADDRESS": registry_address,
            "LEASE_S": str(LEASE_S),
        }
        self._environment = {f"HEADRACE_SCHEDULER_{name}": value for name, value in settings.items()}
        self._process: subprocess.Popen[str] | None = None
        self.address = address
        self.log: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace_scheduler"],
            env={"PATH": os.environ["PATH"]} | self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        listening = threading.Event()
        threading.Thread(target=self._read, args=(self._process, listening), daemon=True).start()
        assert listening.wait(WAIT_S), self.log

    def _read(self, process: "subprocess.Popen[str]", listening: threading.Event) -> None:
        assert process.stderr
        for line in process.stderr:
            event = (
                json.loads(line) if line.startswith("{") else {"event": line, "level": "error"}
            )  # a traceback
            self.log.append(event)
            if event["event"] == "listening":
                listening.set()

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process
        return self._process.wait(WAIT_S)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        if self._process:
            self._process.kill()
            self._process.wait()
