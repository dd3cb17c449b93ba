"""From a name in the registry to a model that runs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from headrace.errors import FailedPrecondition, NotFound
from headrace.names import ArtifactName, ModelName, VersionName, parse_model_reference
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, FILE_ROLE_TORCH_PROGRAM, File, FileRole, Version
from headrace_inference.core.batching import Batching
from headrace_inference.core.catalog import Format, Key, Source
from headrace_inference.core.signature import Signature
from headrace_inference.core.trial import rows_are_independent, warm_up
from headrace_inference.decoupled import DecoupledEngine, DecoupledRunner
from headrace_inference.engine import Engine
from headrace_inference.metrics import ModelMetrics
from headrace_inference.runners.runner import ModelFile, Runner
from headrace_inference.statistics import BatchStatistics

log = structlog.get_logger()

_FORMATS: Mapping[FileRole.ValueType, Format] = {
    FILE_ROLE_ONNX: Format.ONNX,
    FILE_ROLE_TORCH_PROGRAM: Format.TORCH_PROGRAM,
}


class Registry(Protocol):
    """What is needed of `headrace.registry.client.RegistryClient`."""

    def get_version(self, name: str) -> Version:
        """Find a version by number or alias."""

    def download_bytes(self, name: str) -> bytes:
        """Return the bytes of an artifact, checked against its digest."""


@dataclass(frozen=True)
class Model:
    """A loaded model; `batched` tells whether its requests may run together."""

    key: Key
    source: Source
    runner: Runner | DecoupledRunner
    batched: bool
    batching: Batching
    engine: Engine | DecoupledEngine

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.runner.signature


class Loader:
    """Finds files in the registry and makes them run.

    Args:
        registry: None if the server knows none.
        open_runner: Makes a file run; may raise `FailedPrecondition`.
    """

    def __init__(
        self,
        registry: Registry | None,
        open_runner: Callable[[ModelFile], Runner | DecoupledRunner],
        batching: Batching,
        metrics: ModelMetrics,
    ) -> None:
        self._known_registry = registry
        self._open_runner = open_runner
        self._batching = batching
        self._metrics = metrics

    @property
    def _registry(self) -> Registry:
        if self._known_registry is None:
            raise FailedPrecondition(
                "this server knows no registry to load from; start it with HEADRACE_INFERENCE_REGISTRY_ADDRESS"
            )
        return self._known_registry

    def find(self, reference: str, path: str) -> Source:
        """Find the file to serve.

        Args:
            reference: Registry name of a model (then its newest version counts), a version or an alias.
            path: The version's file; empty for its serving file.
        Raises:
            InvalidArgument: `reference` is no such name.
            NotFound: The registry has no such version, or the version no such file.
            FailedPrecondition: The file is none that can be served, or there is no registry.
        """
        name = parse_model_reference(reference, field="version")
        if isinstance(name, ModelName):
            name = name.alias("latest")
        version = self._registry.get_version(str(name))
        file = _serving_file(version, path)
        return Source(
            VersionName.parse(version.name), file.path, file.artifact, file.size_bytes, _FORMATS[file.role]
        )

    def load(self, key: Key, source: Source) -> Model:
        """Fetch a file, check its digest, load it and run it once.

        Raises:
            FailedPrecondition: It cannot be served.
            DataLoss, Unavailable, DeadlineExceeded: It cannot be fetched.
        """
        began = time.perf_counter()
        runner = self._open_runner(self._file(source))
        batched, engine = self._start(runner)
        self._metrics.watch(key, source.number, engine.statistics, lambda: engine.waiting)
        log.info(
            "model_loaded",
            project=key.project,
            model=key.model,
            version=str(source.version),
            file=source.file,
            batched=batched,
            seconds=round(time.perf_counter() - began, 3),
        )
        return Model(key, source, runner, batched, self._batching, engine)

    def _start(self, runner: Runner | DecoupledRunner) -> tuple[bool, Engine | DecoupledEngine]:
        """Run a model for the first time; return whether its requests may be joined, and its engine."""
        if isinstance(
            runner, DecoupledRunner
        ):  # who knows what a made-up request would set off, and for how long
            return False, DecoupledEngine(runner, self._batching, statistics=BatchStatistics())
        batched = self._batching.max_size > 1 and rows_are_independent(runner, runner.signature)
        largest = self._batching.max_size if batched else 1
        warm_up(runner, runner.signature, sorted({1, largest}), time.monotonic)
        return batched, Engine(runner, self._batching, joins=batched, statistics=BatchStatistics())

    def _file(self, source: Source) -> ModelFile:
        digest = ArtifactName.parse(source.artifact).digest
        return ModelFile(source.format, digest, lambda: self._registry.download_bytes(source.artifact))


def _serving_file(version: Version, path: str) -> File:
    path = path or version.serving_file
    if not path:
        raise FailedPrecondition(
            f"{version.name} has no file to serve; optimize it first, or name one of its files"
        )
    files = {file.path: file for file in version.files}
    if path not in files:
        raise NotFound(f"{version.name} has no file {path!r}; it has {', '.join(files)}")
    if files[path].role not in _FORMATS:
        raise FailedPrecondition(
            f"{path!r} of {version.name} cannot be served; name an ONNX model or a program of torch, or none"
        )
    return files[path]
