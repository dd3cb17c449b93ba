"""`headrace.registry.v1.Models` on the wire."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from headrace.errors import InvalidArgument
from headrace.names import AliasName, ModelName, ProjectName, VersionName, check_id
from headrace.paging import PageRequest
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1 import models_pb2_grpc
from headrace_registry import wire
from headrace_registry.core import models, versions
from headrace_registry.core.repository import Database, Repository, Request

Context = grpc.ServicerContext
Answer = TypeVar("Answer", bound=Message)


class Mutation(Protocol):
    """A request that carries an idempotency key."""

    @property
    def request_id(self) -> str:
        """The key, or an empty string."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Return the body."""


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """Names, versions, aliases and lineage of models.

    Args:
        now: Tells the time, in UTC.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        """Make a model."""
        project = ProjectName.parse(request.parent, field="parent").project
        name = ModelName(project, check_id(request.model_id, "model_id"))
        _check_only_description(request.model)

        def create(repository: Repository, now: datetime) -> pb.Model:
            return wire.model_message(models.create_model(repository, name, request.model.description, now))

        return self._write(request, project, pb.Model, create)

    def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        """Return one model."""
        name = ModelName.parse(request.name)
        with self._database.reading() as repository:
            return wire.model_message(models.get_model(repository, name))

    def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the models of a project, by name."""
        project = ProjectName.parse(request.parent, field="parent").project
        asked = PageRequest.parse(request.page_size, request.page_token, "ListModels", request.parent)
        with self._database.reading() as repository:
            page = models.list_models(repository, project, asked)
        messages = [wire.model_message(model) for model in page.items]
        return pb.ListModelsResponse(models=messages, next_page_token=page.next_page_token)

    def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.Model:
        """Change the fields named in the mask."""
        name = ModelName.parse(request.name)
        _check_mask(request.update_mask.paths)

        def update(repository: Repository, now: datetime) -> pb.Model:
            model = request.model
            return wire.model_message(
                models.update_model(repository, name, model.description, model.etag, now)
            )

        return self._write(request, name.project, pb.Model, update)

    def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> Empty:
        """Delete a model without versions."""
        name = ModelName.parse(request.name)

        def remove(repository: Repository, _: datetime) -> Empty:
            models.delete_model(repository, name, request.etag)
            return Empty()

        return self._write(request, name.project, Empty, remove)

    def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Model:
        """Point an alias to a version, or remove it."""
        name = ModelName.parse(request.name)
        version = VersionName.parse(request.version, field="version") if request.version else None

        def point(repository: Repository, now: datetime) -> pb.Model:
            return wire.model_message(
                models.set_alias(repository, name, request.alias, version, request.etag, now)
            )

        return self._write(request, name.project, pb.Model, point)

    def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.Version:
        """Make the next version of a model."""
        model = ModelName.parse(request.parent, field="parent")
        draft = wire.draft(request.version)

        def create(repository: Repository, now: datetime) -> pb.Version:
            version = versions.create_version(
                repository, model, draft, now, create_model=request.create_model
            )
            return wire.version_message(version)

        return self._write(request, model.project, pb.Version, create)

    def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.Version:
        """Return one version, by number or by alias."""
        kind = AliasName if "@" in request.name else VersionName
        name = kind.parse(request.name)
        with self._database.reading() as repository:
            return wire.version_message(versions.get_version(repository, name))

    def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:
        """List the versions of a model, newest first."""
        model = ModelName.parse(request.parent, field="parent")
        asked = PageRequest.parse(request.page_size, request.page_token, "ListVersions", request.parent)
        with self._database.reading() as repository:
            page = versions.list_versions(repository, model, asked)
        messages = [wire.version_message(version) for version in page.items]
        return pb.ListVersionsResponse(versions=messages, next_page_token=page.next_page_token)

    def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> Empty:
        """Delete a version that no alias points to."""
        name = VersionName.parse(request.name)

        def remove(repository: Repository, _: datetime) -> Empty:
            versions.delete_version(repository, name)
            return Empty()

        return self._write(request, name.project, Empty, remove)

    def _write(
        self,
        request: Mutation,
        project: str,
        answer: type[Answer],
        change: Callable[[Repository, datetime], Answer],
    ) -> Answer:
        """Run `change` and remember its answer in one transaction, or give the answer that is remembered."""
        seen = Request(
            method=type(request).__name__.removesuffix("Request"),
            project=project,
            request_id=request.request_id,
            body=request.SerializeToString(deterministic=True),
        )
        with self._database.writing() as repository:
            now = self._now()
            data = repository.answer_once(seen, now, lambda: change(repository, now).SerializeToString())
        message = answer()
        message.ParseFromString(data)
        return message


def _check_only_description(model: pb.Model) -> None:
    others = [field.name for field, _ in model.ListFields() if field.name != "description"]
    if others:
        raise InvalidArgument(
            f"model.{others[0]} is set by the registry; set the description alone", field=f"model.{others[0]}"
        )


def _check_mask(paths: Iterable[str]) -> None:
    others = [path for path in paths if path != "description"]
    if others:
        raise InvalidArgument(
            f"update_mask names {others[0]!r}; only 'description' can be changed", field="update_mask"
        )
