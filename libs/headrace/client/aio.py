"""The asyncio client: every verb of `headrace.client.sync`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from headrace.client import requests
from headrace.client.address import checked_address
from headrace.client.aio_inspection import AsyncInspection
from headrace.client.aio_prediction import AsyncPredictor
from headrace.client.following import follow_async
from headrace.client.naming import deployment_name, job_name, node_name
from headrace.client.outcome import is_final, serving, succeeded, waits
from headrace.client.prediction import TIMEOUT_S
from headrace.client.requests import OptimizeOptions
from headrace.client.sync import DEPLOY_TIMEOUT_S, Client
from headrace.client.training import TrainOptions, train_job
from headrace.errors import AlreadyExists
from headrace.names import ProjectName
from headrace.rpc.channel import open_aio_channel
from headrace.rpc.pages import PAGE_SIZE, pages_async
from headrace.scheduler.v1 import cluster_pb2, deployments_pb2, jobs_pb2
from headrace.scheduler.v1.cluster_pb2 import Node
from headrace.scheduler.v1.cluster_pb2_grpc import ClusterStub
from headrace.scheduler.v1.deployments_pb2 import Deployment
from headrace.scheduler.v1.deployments_pb2_grpc import DeploymentsStub
from headrace.scheduler.v1.jobs_pb2 import Job
from headrace.scheduler.v1.jobs_pb2_grpc import JobsStub

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headrace.inference.client import ModelMetadata
    from headrace.registry.v1.models_pb2 import Model, Version


class AsyncClient:
    """What `Client` is, for asyncio. Make it inside a running event loop; close it, or use it in an `async with`.

    `jobs`, `deployments` and `cluster` are the scheduler's own rpcs. What reads or writes files, and the registry's short
    calls beside it, runs in threads. Every method says the same as `Client`'s of its name.
    """

    def __init__(self, address: str, project: str) -> None:
        self.address = checked_address(address)
        self.project = ProjectName(project).project
        self._channel = open_aio_channel(address, project=project, patient=True)
        self.jobs = JobsStub(self._channel)
        self.deployments = DeploymentsStub(self._channel)
        self.cluster = ClusterStub(self._channel)
        self.inspection = AsyncInspection(self._channel, self.watch)
        self._predictor = AsyncPredictor(self.deployments, project)
        self._threaded = Client(address, project)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._predictor.close()
        await self._channel.close()
        await asyncio.to_thread(self._threaded.close)

    # Work

    async def train(
        self,
        program: str | Path,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[TrainOptions],
    ) -> Job:
        """As `Client.train`."""
        message = await asyncio.to_thread(self._threaded.bring_program, program, config)
        return await self.jobs.CreateJob(train_job(self.project, message, model, **options))

    async def optimize(self, version: str, **options: Unpack[OptimizeOptions]) -> Job:
        """As `Client.optimize`."""
        return await self.jobs.CreateJob(requests.optimize_job(self.project, version, **options))

    async def wait(
        self,
        job: Job | str,
        on_change: Callable[[Job], object] | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """As `Client.wait`."""
        current = None
        async with aclosing(self.watch(job, timeout_s=timeout_s)) as changes:
            async for current in changes:
                if on_change:
                    on_change(current)
        assert current is not None, "a watch ends with a final job"
        return succeeded(current)

    async def watch(self, job: Job | str, *, timeout_s: float | None = None) -> AsyncGenerator[Job, None]:
        """As `Client.watch`."""
        name = self._job_name(job)
        request = jobs_pb2.WatchJobRequest(name=name)
        async with aclosing(follow_async(self.jobs.WatchJob, request, name, timeout_s)) as changes:
            async for response in changes:
                yield response.job
                if is_final(response.job):
                    return

    async def job(self, job: str) -> Job:
        """As `Client.job`."""
        return await self.jobs.GetJob(jobs_pb2.GetJobRequest(name=self._job_name(job)))

    async def list_jobs(self) -> list[Job]:
        """As `Client.list_jobs`."""
        request = jobs_pb2.ListJobsRequest(parent=self._parent, page_size=PAGE_SIZE)
        return [job async for page in pages_async(self.jobs.ListJobs, request) for job in page.jobs]

    async def cancel(self, job: Job | str) -> Job:
        """As `Client.cancel`."""
        return await self.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=self._job_name(job)))

    async def reshard(self, job: Job | str, shards: int) -> Job:
        """As `Client.reshard`."""
        return await self.jobs.ReshardJob(jobs_pb2.ReshardJobRequest(name=self._job_name(job), shards=shards))

    async def explain(self, job: Job | str) -> jobs_pb2.ExplainJobResponse:
        """As `Client.explain`."""
        return await self.jobs.ExplainJob(jobs_pb2.ExplainJobRequest(name=self._job_name(job)))

    # Serving

    async def deploy(
        self,
        name: str,
        version: str,
        file: str = "",
        replicas: int = 1,
        *,
        pool: str = "",
        wait: bool = True,
        timeout_s: float = DEPLOY_TIMEOUT_S,
    ) -> Deployment:
        """As `Client.deploy`."""
        request = requests.create_deployment(
            self.project, name, version, file=file, replicas=replicas, pool=pool
        )
        try:
            deployment = await self.deployments.CreateDeployment(request)
        except AlreadyExists:
            deployment = await self.deployments.UpdateDeployment(requests.update_deployment(request))
        return await self._await_serving(deployment.name, timeout_s) if wait else deployment

    async def _await_serving(self, name: str, timeout_s: float) -> Deployment:
        request = deployments_pb2.WatchDeploymentRequest(name=name)
        watching = follow_async(self.deployments.WatchDeployment, request, name, timeout_s, waits)
        async with aclosing(watching) as changes:
            return await anext(change.deployment async for change in changes if serving(change.deployment))

    async def undeploy(self, name: str) -> None:
        """As `Client.undeploy`."""
        await self.deployments.DeleteDeployment(
            deployments_pb2.DeleteDeploymentRequest(
                name=deployment_name(self.project, name), request_id=requests.new_request_id()
            )
        )

    async def list_deployments(self) -> list[Deployment]:
        """As `Client.list_deployments`."""
        request = deployments_pb2.ListDeploymentsRequest(parent=self._parent, page_size=PAGE_SIZE)
        method = self.deployments.ListDeployments
        return [one async for page in pages_async(method, request) for one in page.deployments]

    async def predict(
        self, name: str, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `Client.predict`."""
        return await self._predictor.predict(deployment_name(self.project, name), inputs, timeout_s)

    async def metadata(self, name: str, *, timeout_s: float = TIMEOUT_S) -> ModelMetadata:
        """As `Client.metadata`."""
        return await self._predictor.metadata(deployment_name(self.project, name), timeout_s)

    # Models

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await asyncio.to_thread(self._threaded.models)

    async def versions(self, model: str) -> list[Version]:
        """As `Client.versions`."""
        return await asyncio.to_thread(self._threaded.versions, model)

    async def version(self, version: str) -> Version:
        """As `Client.version`."""
        return await asyncio.to_thread(self._threaded.version, version)

    async def set_alias(self, model: str, alias: str, version: str) -> Model:
        """As `Client.set_alias`."""
        return await asyncio.to_thread(self._threaded.set_alias, model, alias, version)

    async def download(self, version: str, folder: str | Path) -> list[Path]:
        """As `Client.download`."""
        return await asyncio.to_thread(self._threaded.download, version, folder)

    # Machines

    async def list_nodes(self) -> list[Node]:
        """As `Client.list_nodes`."""
        request = cluster_pb2.ListNodesRequest(page_size=PAGE_SIZE)
        return [node async for page in pages_async(self.cluster.ListNodes, request) for node in page.nodes]

    async def drain(self, node: str) -> Node:
        """As `Client.drain`."""
        return await self.cluster.DrainNode(cluster_pb2.DrainNodeRequest(name=node_name(node)))

    async def resume(self, node: str) -> Node:
        """As `Client.resume`."""
        return await self.cluster.ResumeNode(cluster_pb2.ResumeNodeRequest(name=node_name(node)))

    @property
    def _parent(self) -> str:
        return str(ProjectName(self.project))

    def _job_name(self, job: Job | str) -> str:
        return job_name(self.project, job if isinstance(job, str) else job.name)
