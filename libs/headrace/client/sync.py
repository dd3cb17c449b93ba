"""The client. Its asyncio twin is `headrace.client.aio`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from headrace.client import requests
from headrace.client.address import checked_address
from headrace.client.following import follow
from headrace.client.inspection import Inspection
from headrace.client.naming import deployment_name, job_name, model_name, node_name, version_name
from headrace.client.outcome import is_final, serving, succeeded, waits
from headrace.client.prediction import TIMEOUT_S, Predictor
from headrace.client.requests import OptimizeOptions
from headrace.client.source import Installed, find_program
from headrace.client.target import file_targets
from headrace.client.training import TrainOptions, train_job
from headrace.errors import AlreadyExists
from headrace.names import ProjectName
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.rpc.pages import PAGE_SIZE, pages
from headrace.scheduler.v1 import cluster_pb2, deployments_pb2, jobs_pb2
from headrace.scheduler.v1.cluster_pb2 import Node
from headrace.scheduler.v1.cluster_pb2_grpc import ClusterStub
from headrace.scheduler.v1.deployments_pb2 import Deployment
from headrace.scheduler.v1.deployments_pb2_grpc import DeploymentsStub
from headrace.scheduler.v1.jobs_pb2 import Job
from headrace.scheduler.v1.jobs_pb2_grpc import JobsStub

if TYPE_CHECKING:
    import grpc
    import numpy as np
    import numpy.typing as npt

    from headrace.inference.client import ModelMetadata
    from headrace.registry.v1.models_pb2 import Model, Version
    from headrace.types.v1.program_pb2 import Program

DEPLOY_TIMEOUT_S = 300.0


class Client:
    """Everything a person does with a headrace. Close it, or use it in a `with`; threads may share it.

    `jobs`, `deployments` and `cluster` are the scheduler's own rpcs, `registry` is the registry's client, `inspection` looks at tasks. All methods
    raise the errors of `headrace.errors`. Models, versions, jobs and deployments may be said short ("digits",
    "digits@stable", "digits/3") or as full resource names.
    """

    def __init__(self, address: str, project: str) -> None:
        self.address = checked_address(address)
        self.project = ProjectName(project).project
        self._channel = open_channel(address, project=project, patient=True)
        self.jobs = JobsStub(self._channel)
        self.deployments = DeploymentsStub(self._channel)
        self.cluster = ClusterStub(self._channel)
        self.inspection = Inspection(self._channel, self.watch)
        self._predictor = Predictor(self.deployments, project)
        self._lock = threading.Lock()
        self._registry_channel: grpc.Channel | None = None
        self._registry: RegistryClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all channels; jobs and deployments go on."""
        self._predictor.close()
        if self._registry_channel is not None:
            self._registry_channel.close()
        self._channel.close()

    @property
    def registry(self) -> RegistryClient:
        """The registry's client; the scheduler is asked once where the registry is."""
        with self._lock:
            if self._registry is None:
                cluster = self.cluster.GetCluster(cluster_pb2.GetClusterRequest())
                self._registry_channel = open_channel(cluster.registry_address, project=self.project)
                self._registry = RegistryClient(self._registry_channel)
            return self._registry

    # Work

    def train(
        self,
        program: str | Path,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[TrainOptions],
    ) -> Job:
        """Submit a training job; its result becomes the next version of `model`.

        Args:
            program: "package.module:Class" of an installed package, or the path of sources to be sent: "my_model.py",
                "my_model.py:Class", "folder:module:Class". See `headrace.client.source`.
            model: Made when missing.
            config: Keyword arguments of the program's class, as JSON has them.
            options: See `TrainOptions`; `steps` and `batch_size` must be given.
        """
        message = self.bring_program(program, config)
        return self.jobs.CreateJob(train_job(self.project, message, model, **options))

    def bring_program(self, program: str | Path, config: Mapping[str, Any] | None = None) -> Program:
        """Return the program as jobs name it; sources are packed and uploaded first."""
        found = find_program(str(program))
        if isinstance(found, Installed):
            return requests.module_program(found.path, config)
        from headrace.program.archive import pack

        artifact = self.registry.upload_bytes(self.project, pack(found.path))
        return requests.archive_program(artifact, found.target, config)

    def optimize(self, version: str, **options: Unpack[OptimizeOptions]) -> Job:
        """Submit a job that makes `version` small and fast; see `OptimizeOptions`. Its result is a new version."""
        return self.jobs.CreateJob(requests.optimize_job(self.project, version, **options))

    def wait(
        self,
        job: Job | str,
        on_change: Callable[[Job], object] | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Wait until the job is done, through restarts of the scheduler, and return it.

        Args:
            on_change: Called with the job as it is now and after each change.
            timeout_s: None: no limit.
        Raises:
            HeadraceError: Why the job failed; the class its reason stands for.
            Cancelled: Somebody cancelled the job.
            DeadlineExceeded: It is not done within `timeout_s`; it goes on.
        """
        current = None
        for current in self.watch(job, timeout_s=timeout_s):
            if on_change:
                on_change(current)
        assert current is not None, "a watch ends with a final job"
        return succeeded(current)

    def watch(self, job: Job | str, *, timeout_s: float | None = None) -> Iterator[Job]:
        """Yield the job as it is now and after each change, until it is final."""
        name = self._job_name(job)
        for response in follow(self.jobs.WatchJob, jobs_pb2.WatchJobRequest(name=name), name, timeout_s):
            yield response.job
            if is_final(response.job):
                return

    def job(self, job: str) -> Job:
        """Return one job."""
        return self.jobs.GetJob(jobs_pb2.GetJobRequest(name=self._job_name(job)))

    def list_jobs(self) -> list[Job]:
        """Return all jobs of the project, newest first."""
        request = jobs_pb2.ListJobsRequest(parent=self._parent, page_size=PAGE_SIZE)
        return [job for page in pages(self.jobs.ListJobs, request) for job in page.jobs]

    def cancel(self, job: Job | str) -> Job:
        """Ask the job to end; it may take a moment."""
        return self.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=self._job_name(job)))

    def reshard(self, job: Job | str, shards: int) -> Job:
        """Let the job have so many parameter shards, while it trains; it has them once its `shards` says so."""
        return self.jobs.ReshardJob(jobs_pb2.ReshardJobRequest(name=self._job_name(job), shards=shards))

    def explain(self, job: Job | str) -> jobs_pb2.ExplainJobResponse:
        """Say why the job waits."""
        return self.jobs.ExplainJob(jobs_pb2.ExplainJobRequest(name=self._job_name(job)))

    # Serving

    def deploy(
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
        """Serve `version` as `name`; a deployment of that name is changed, and goes on serving meanwhile.

        Args:
            file: The version's file to serve; empty: its own choice.
            pool: Only for a new deployment.
            wait: Return when all replicas serve it.
            timeout_s: How long to wait.
        Raises:
            HeadraceError: Why the version cannot be served.
            DeadlineExceeded: It is not served within `timeout_s`; the scheduler goes on trying.
        """
        request = requests.create_deployment(
            self.project, name, version, file=file, replicas=replicas, pool=pool
        )
        try:
            deployment = self.deployments.CreateDeployment(request)
        except AlreadyExists:
            deployment = self.deployments.UpdateDeployment(requests.update_deployment(request))
        return self._await_serving(deployment.name, timeout_s) if wait else deployment

    def _await_serving(self, name: str, timeout_s: float) -> Deployment:
        request = deployments_pb2.WatchDeploymentRequest(name=name)
        changes = follow(self.deployments.WatchDeployment, request, name, timeout_s, waits)
        return next(change.deployment for change in changes if serving(change.deployment))

    def undeploy(self, name: str) -> None:
        """Stop serving."""
        self.deployments.DeleteDeployment(
            deployments_pb2.DeleteDeploymentRequest(
                name=deployment_name(self.project, name), request_id=requests.new_request_id()
            )
        )

    def list_deployments(self) -> list[Deployment]:
        """Return all deployments of the project, by name."""
        request = deployments_pb2.ListDeploymentsRequest(parent=self._parent, page_size=PAGE_SIZE)
        return [one for page in pages(self.deployments.ListDeployments, request) for one in page.deployments]

    def predict(
        self, name: str, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run the model that `name` serves once; while a replica is away, another one is asked.

        Args:
            name: The deployment.
            inputs: Arrays by the model's input names, with the model's element types; the first axis is the batch.
            timeout_s: Time for all of it.
        Returns:
            The outputs by name; read-only.
        Raises:
            InvalidArgument: A name, type or shape is not the model's.
            NotFound: There is no such deployment.
            Unavailable: No replica answered in time.
        """
        return self._predictor.predict(deployment_name(self.project, name), inputs, timeout_s)

    def metadata(self, name: str, *, timeout_s: float = TIMEOUT_S) -> ModelMetadata:
        """Return names, types and shapes of what the model that `name` serves takes and gives."""
        return self._predictor.metadata(deployment_name(self.project, name), timeout_s)

    # Models

    def models(self) -> list[Model]:
        """Return all models of the project, by name."""
        return list(self.registry.list_models(self.project))

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, newest first."""
        return list(self.registry.list_versions(model_name(self.project, model)))

    def version(self, version: str) -> Version:
        """Return one version: "digits" (the newest), "digits@stable", "digits/3"."""
        return self.registry.get_version(version_name(self.project, version))

    def set_alias(self, model: str, alias: str, version: str) -> Model:
        """Point `alias` of the model to one of its versions, said like "digits/3"; an empty `version` removes it."""
        target = version and self.version(version).name  # an alias is resolved now, not kept
        return self.registry.set_alias(model_name(self.project, model), alias, target)

    def download(self, version: str, folder: str | Path) -> list[Path]:
        """Write all files of a version into `folder`, made when missing, and return their paths."""
        found = self.version(version)
        targets = file_targets(found, Path(folder))
        for artifact, path in targets:
            self.registry.download_file(artifact, path)
        return [path for _, path in targets]

    # Machines

    def drain(self, node: str) -> Node:
        """Give the node no new work; what it has goes on."""
        return self.cluster.DrainNode(cluster_pb2.DrainNodeRequest(name=node_name(node)))

    def resume(self, node: str) -> Node:
        """Give a drained node work again."""
        return self.cluster.ResumeNode(cluster_pb2.ResumeNodeRequest(name=node_name(node)))

    def list_nodes(self) -> list[Node]:
        """Return all nodes, by name."""
        request = cluster_pb2.ListNodesRequest(page_size=PAGE_SIZE)
        return [node for page in pages(self.cluster.ListNodes, request) for node in page.nodes]

    @property
    def _parent(self) -> str:
        return str(ProjectName(self.project))

    def _job_name(self, job: Job | str) -> str:
        return job_name(self.project, job if isinstance(job, str) else job.name)
