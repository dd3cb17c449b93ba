"""Deployments on the wire."""

from collections.abc import Iterator
from threading import BoundedSemaphore

import grpc
from google.protobuf.empty_pb2 import Empty

from headrace.errors import InvalidArgument, NotFound
from headrace.names import (
    AliasName,
    DeploymentName,
    PoolName,
    ProjectName,
    VersionName,
    check_id,
    parse_model_reference,
)
from headrace.paging import PageRequest
from headrace.rpc.layers import current_call
from headrace.scheduler.v1 import deployments_pb2, deployments_pb2_grpc
from headrace_scheduler.calls import resolve_file
from headrace_scheduler.core.deployments import Deployment
from headrace_scheduler.core.events import DeploymentCreated, DeploymentDeleted, DeploymentUpdated
from headrace_scheduler.core.nodes import DEFAULT_POOL
from headrace_scheduler.core.tables import Tables
from headrace_scheduler.engine import Engine, Repeatable
from headrace_scheduler.watches import watching
from headrace_scheduler.wire import deployment_message

MAX_REPLICAS = 1024
MUTABLE = ("version", "file", "replicas")


class DeploymentsServicer(deployments_pb2_grpc.DeploymentsServicer):
    """Translates; finds versions in the registry before the core is asked."""

    def __init__(self, engine: Engine, watches: BoundedSemaphore, registry: grpc.Channel | None) -> None:
        self._engine = engine
        self._watches = watches
        self._registry = registry

    def CreateDeployment(
        self, request: deployments_pb2.CreateDeploymentRequest, context: grpc.ServicerContext
    ) -> deployments_pb2.Deployment:
        """Make a deployment."""
        project = ProjectName.parse(request.parent, field="parent").project
        name = str(DeploymentName(project, check_id(request.deployment_id, "deployment_id")))
        wish = _Wish(request.deployment, project)
        version, file = resolve_file(self._registry, wish.version, wish.file)
        now = self._engine.now()
        deployment = Deployment(
            name=name,
            version=wish.version,
            file=wish.file,
            replicas=wish.replicas,
            pool=str(PoolName.parse(request.deployment.pool or DEFAULT_POOL, field="deployment.pool")),
            resolved_version=version,
            resolved_file=file,
            create_time=now,
            update_time=now,
        )
        return self._request(DeploymentCreated(deployment), name, "CreateDeployment", project, request)

    def GetDeployment(
        self, request: deployments_pb2.GetDeploymentRequest, context: grpc.ServicerContext
    ) -> deployments_pb2.Deployment:
        """Return one deployment."""
        name = _name(request.name)
        return self._engine.read(lambda tables: deployment_message(find(tables, name)))

    def ListDeployments(
        self, request: deployments_pb2.ListDeploymentsRequest, context: grpc.ServicerContext
    ) -> deployments_pb2.ListDeploymentsResponse:
        """List deployments, by name."""
        parent = str(ProjectName.parse(request.parent, field="parent"))
        wanted = PageRequest.parse(request.page_size, request.page_token, "ListDeployments", parent)

        def rows(tables: Tables) -> list[deployments_pb2.Deployment]:
            found = sorted(name for name in tables.deployments if name.startswith(f"{parent}/"))
            return [deployment_message(tables.deployments[name]) for name in found]

        page = wanted.page_of_all(self._engine.read(rows), lambda deployment: (deployment.name,))
        return deployments_pb2.ListDeploymentsResponse(
            deployments=page.items, next_page_token=page.next_page_token
        )

    def UpdateDeployment(
        self, request: deployments_pb2.UpdateDeploymentRequest, context: grpc.ServicerContext
    ) -> deployments_pb2.Deployment:
        """Change a deployment."""
        name = _name(request.name)
        project = DeploymentName.parse(name).project
        old = self._engine.read(lambda tables: deployment_message(find(tables, name)))
        for path in _paths(request):
            setattr(old, path, getattr(request.deployment, path))
        wish = _Wish(old, project)
        version, file = resolve_file(self._registry, wish.version, wish.file)
        # Fields that are not in the mask come from what was read a moment ago: that is what may not have changed since.
        etag = request.deployment.etag or (old.etag if len(_paths(request)) < len(MUTABLE) else "")
        updated = DeploymentUpdated(name, wish.version, wish.file, wish.replicas, version, file, etag)
        return self._request(updated, name, "UpdateDeployment", project, request)

    def DeleteDeployment(
        self, request: deployments_pb2.DeleteDeploymentRequest, context: grpc.ServicerContext
    ) -> Empty:
        """Delete a deployment."""
        name = _name(request.name)
        body = request.SerializeToString(deterministic=True)
        repeatable = Repeatable(
            "DeleteDeployment", DeploymentName.parse(name).project, request.request_id, body
        )
        self._engine.request(DeploymentDeleted(name, request.etag), repeatable, lambda _: b"")
        return Empty()

    def WatchDeployment(
        self, request: deployments_pb2.WatchDeploymentRequest, context: grpc.ServicerContext
    ) -> Iterator[deployments_pb2.WatchDeploymentResponse]:
        """Stream a deployment's changes until the caller ends the call."""
        name, call = _name(request.name), current_call()
        with watching(self._watches, self._engine, call):
            for deployment in self._engine.follow(
                lambda: self._engine.read(lambda tables: find(tables, name)),
                request.after_revision,
                finished=lambda _: False,
                ended=lambda: call.ended,
            ):
                yield deployments_pb2.WatchDeploymentResponse(deployment=deployment_message(deployment))

    def _request(
        self,
        event: DeploymentCreated | DeploymentUpdated,
        name: str,
        method: str,
        project: str,
        request: deployments_pb2.CreateDeploymentRequest | deployments_pb2.UpdateDeploymentRequest,
    ) -> deployments_pb2.Deployment:
        answer = self._engine.request(
            event,
            Repeatable(method, project, request.request_id, request.SerializeToString(deterministic=True)),
            lambda tables: deployment_message(find(tables, name)).SerializeToString(),
        )
        return deployments_pb2.Deployment.FromString(answer)


class _Wish:
    """What a caller wishes, checked."""

    def __init__(self, wished: deployments_pb2.Deployment, project: str) -> None:
        name = parse_model_reference(wished.version, field="deployment.version")
        if not isinstance(name, VersionName | AliasName):
            raise InvalidArgument(
                f"deployment.version {wished.version!r} is a model; name a version: …/versions/1 or …@latest",
                field="deployment.version",
            )
        if name.project != project:
            raise InvalidArgument(
                f"deployment.version {wished.version!r} must be in the deployment's own project, projects/{project}",
                field="deployment.version",
            )
        if wished.replicas > MAX_REPLICAS:
            raise InvalidArgument(
                f"deployment.replicas is {wished.replicas}; it must be 1 to {MAX_REPLICAS}",
                field="deployment.replicas",
            )
        self.version = wished.version
        self.file = wished.file
        self.replicas = wished.replicas or 1


def _paths(request: deployments_pb2.UpdateDeploymentRequest) -> tuple[str, ...]:
    for path in request.update_mask.paths:
        if path not in MUTABLE:
            raise InvalidArgument(
                f"update_mask names {path!r}; only {', '.join(MUTABLE)} can be changed", field="update_mask"
            )
    return tuple(request.update_mask.paths) or MUTABLE


def find(tables: Tables, name: str) -> Deployment:
    """Return a deployment, or raise NotFound."""
    if name not in tables.deployments:
        raise NotFound(f"there is no {name}; list the deployments to see which there are")
    return tables.deployments[name]


def _name(name: str) -> str:
    return str(DeploymentName.parse(name))
