"""The registry's client: bytes in and out, versions made and found.

    registry = RegistryClient(open_channel("127.0.0.1:8471"))
    weights = registry.upload_file("default", Path("model.safetensors"))
    version = registry.create_version("projects/default/models/digits", Version(files=[File(path=..., artifact=weights)]))
    data = registry.download_bytes(version.files[0].artifact)

Every call has a deadline, and bridges a restart of the registry. All methods raise the errors of `headrace.errors`.
"""

import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import grpc

from headrace.names import ArtifactName, ProjectName
from headrace.registry.transfer import (
    PATIENCE,
    TRANSIENT,
    Attempts,
    Patience,
    Progress,
    Upload,
    digest_of,
    download,
)
from headrace.registry.v1.artifacts_pb2_grpc import ArtifactsStub
from headrace.registry.v1.models_pb2 import (
    CreateVersionRequest,
    GetModelRequest,
    GetVersionRequest,
    ListModelsRequest,
    ListVersionsRequest,
    Model,
    SetAliasRequest,
    Version,
)
from headrace.registry.v1.models_pb2_grpc import ModelsStub
from headrace.rpc.pages import pages

Request = TypeVar("Request")
Answer = TypeVar("Answer")


def _silent(done: int, total: int) -> None:
    """Take progress that nobody asked for."""


class RegistryClient:
    """Calls the registry over a channel of `headrace.rpc.channel.open_channel`, which the caller closes.

    Args:
        timeout_s: Deadline of one try of a short call.
        patience: How long to wait for a registry that does not answer, and for a transfer of bytes.
    """

    def __init__(
        self, channel: grpc.Channel, *, timeout_s: float = 30, patience: Patience = PATIENCE
    ) -> None:
        self._artifacts = ArtifactsStub(channel)
        self._models = ModelsStub(channel)
        self._timeout_s = timeout_s
        self._patience = patience

    def upload_bytes(self, project: str, data: bytes) -> str:
        """Store `data` in the project with this id and return its artifact's name; storing it twice is harmless."""
        digest = hashlib.sha256(data).hexdigest()
        return self._upload(ArtifactName(project, digest), io.BytesIO(data), len(data), _silent)

    def upload_file(self, project: str, path: Path, on_progress: Progress | None = None) -> str:
        """Store a file in the project with this id and return its artifact's name.

        The file is read twice, first for its digest, and never held in memory. An upload that broke off, in this
        process or in another, goes on where it ended.

        Args:
            on_progress: Called with (bytes done, bytes in all), from another thread.
        """
        with path.open("rb") as source:
            digest, size = digest_of(source)
            return self._upload(ArtifactName(project, digest), source, size, on_progress or _silent)

    def _upload(self, name: ArtifactName, source: BinaryIO, size: int, on_progress: Progress) -> str:
        Upload(self._artifacts, str(name), source, size, on_progress).run(Attempts(self._patience))
        return str(name)

    def download_bytes(self, name: str) -> bytes:
        """Return the bytes of an artifact, checked against its digest.

        Raises:
            DataLoss: They do not match it.
        """
        return b"".join(self._download(name))

    def download_file(self, name: str, path: Path) -> None:
        """Write an artifact to `path`, which then holds all of it, or is as it was before."""
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                for chunk in self._download(name):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _download(self, name: str) -> Iterator[bytes]:
        return download(self._artifacts, str(ArtifactName.parse(name)), Attempts(self._patience))

    def create_version(
        self, parent: str, version: Version, *, request_id: str | None = None, create_model: bool = True
    ) -> Version:
        """Make the next version of the model `parent` and return it with its name and sizes.

        Args:
            request_id: The same one makes the call repeatable: the first answer comes again. None: a fresh one.
            create_model: Make the model if it does not exist.
        """
        request = CreateVersionRequest(
            parent=parent,
            version=version,
            create_model=create_model,
            request_id=request_id or new_request_id(),
        )
        return self._call(self._models.CreateVersion, request)

    def get_version(self, name: str) -> Version:
        """Find a version by `…/versions/{n}` or `…/models/{model}@{alias}`; `@latest` is the highest number."""
        return self._call(self._models.GetVersion, GetVersionRequest(name=name))

    def get_model(self, name: str) -> Model:
        """Find a model with its aliases."""
        return self._call(self._models.GetModel, GetModelRequest(name=name))

    def list_models(self, project: str) -> Iterator[Model]:
        """Yield the models of the project with this id, by name; pages are asked for as they are needed."""
        request = ListModelsRequest(parent=str(ProjectName(project)))
        for page in pages(partial(self._call, self._models.ListModels), request):
            yield from page.models

    def list_versions(self, parent: str) -> Iterator[Version]:
        """Yield the versions of the model `parent`, newest first; pages are asked for as they are needed."""
        request = ListVersionsRequest(parent=parent)
        for page in pages(partial(self._call, self._models.ListVersions), request):
            yield from page.versions

    def set_alias(
        self, model: str, alias: str, version: str, *, etag: str = "", request_id: str | None = None
    ) -> Model:
        """Point `alias` of the model at `version`, or remove it when `version` is empty; return the model."""
        request = SetAliasRequest(
            name=model, alias=alias, version=version, etag=etag, request_id=request_id or new_request_id()
        )
        return self._call(self._models.SetAlias, request)

    def _call(self, rpc: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request) -> Answer:
        """Make a short call, and again while the registry restarts: every rpc of it may be repeated."""
        attempts = Attempts(self._patience)
        while True:
            try:
                return rpc(request, timeout=min(self._timeout_s, attempts.remaining_s))
            except TRANSIENT as error:
                attempts.failed(error)


def new_request_id() -> str:
    """Return a fresh idempotency key."""
    return str(uuid.uuid4())
