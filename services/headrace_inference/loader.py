"""From a name in the registry to a model that runs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound
from headrace.names import ArtifactName, ModelName, VersionName, parse_model_reference
from headrace.registry.v1.models_pb2 import (
    FILE_ROLE_LABELS,
    FILE_ROLE_MODEL_CONFIG,
    FILE_ROLE_ONNX,
    FILE_ROLE_TORCH_PROGRAM,
    File,
    FileRole,
    Version,
)
from headrace_inference.core.answers import Answers
from headrace_inference.core.batching import Batching
from headrace_inference.core.catalog import Declared, Format, Key, Source
from headrace_inference.core.config import ModelConfig
from headrace_inference.core.padding import padding_along
from headrace_inference.core.signature import Signature
from headrace_inference.core.trial import rows_are_independent, warm_up, warm_up_with
from headrace_inference.decoupled import DecoupledEngine, DecoupledRunner
from headrace_inference.engine import Engine
from headrace_inference.memory import give_back_memory, held_bytes
from headrace_inference.metrics import ModelMetrics
from headrace_inference.runners.ensemble import EnsembleRunner, Members
from headrace_inference.runners.runner import ModelFile, Runner
from headrace_inference.statistics import BatchStatistics
from headrace_inference.wire.declared import check_size, read_config

log = structlog.get_logger()

OpenRunner = Callable[[ModelFile, ModelConfig], Runner | DecoupledRunner]

_FORMATS: Mapping[FileRole.ValueType, Format] = {
    FILE_ROLE_ONNX: Format.ONNX,
    FILE_ROLE_TORCH_PROGRAM: Format.TORCH_PROGRAM,
    FILE_ROLE_MODEL_CONFIG: Format.CONFIG,
}


class Registry(Protocol):
    """What is needed of `headrace.registry.client.RegistryClient`."""

    def get_version(self, name: str) -> Version:
        """Find a version by number or alias."""

    def download_bytes(self, name: str) -> bytes:
        """Return the bytes of an artifact, checked against its digest."""


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Args:
        batched: Whether its requests may run together.
        labels: Names of the classes of outputs, by index.
        held_bytes: By how much the process grew while it was loaded and warmed up; others may have grown beside it.
    """

    key: Key
    source: Source
    runner: Runner | DecoupledRunner
    config: ModelConfig
    batched: bool
    engine: Engine | DecoupledEngine
    answers: Answers | None = None
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_bytes: int = 0

    @property
    def batching(self) -> Batching:
        """How its requests share its workers."""
        return self.config.batching

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.runner.signature


class Loader:
    """Finds files in the registry and makes them run.

    Args:
        registry: None if the server knows none.
        open_runner: Makes a file run as its configuration says; may raise `FailedPrecondition`.
        batching: Of models whose configuration leaves it open.
        answer_bytes: Most bytes of the answers kept for one model whose configuration wants them kept.
    """

    def __init__(
        self,
        registry: Registry | None,
        open_runner: OpenRunner,
        batching: Batching,
        metrics: ModelMetrics,
        *,
        answer_bytes: int = 0,
    ) -> None:
        self._known_registry = registry
        self._open_runner = open_runner
        self._batching = batching
        self._metrics = metrics
        self._answer_bytes = answer_bytes

    @property
    def _registry(self) -> Registry:
        if self._known_registry is None:
            raise FailedPrecondition(
                "this server knows no registry to load from; start it with HEADRACE_INFERENCE_REGISTRY_ADDRESS"
            )
        return self._known_registry

    def find(self, reference: str, path: str, config: str = "") -> Source:
        """Find the file to serve, and how it is served.

        Args:
            reference: Registry name of a model (then its newest version counts), a version or an alias.
            path: The version's file; empty for its serving file.
            config: A configuration as JSON, instead of the version's.
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
        declared = Declared(config.encode(), "config") if config else self._declared(version, file)
        return Source(
            VersionName.parse(version.name),
            file.path,
            file.artifact,
            file.size_bytes,
            _FORMATS[file.role],
            declared,
            tuple(self._label_artifacts(version, declared)) if declared else (),
        )

    def _label_artifacts(self, version: Version, declared: Declared) -> Iterator[tuple[str, str]]:
        files = {file.path: file for file in version.files if file.role == FILE_ROLE_LABELS}
        for output, path in read_config(declared.text, declared.file, self._batching).label_files.items():
            if path not in files:
                raise FailedPrecondition(
                    f"{declared.file!r} names {path!r} for output {output!r}, but {version.name} has no such file of labels; "
                    f"it has {', '.join(files) or 'none'}"
                )
            check_size(path, files[path].size_bytes)
            yield output, files[path].artifact

    def _declared(self, version: Version, served: File) -> Declared | None:
        files = [file for file in version.files if file.role == FILE_ROLE_MODEL_CONFIG]
        if served in files:
            files = [served]
        if len(files) > 1:
            raise FailedPrecondition(
                f"{version.name} has the configurations {', '.join(file.path for file in files)}; keep one"
            )
        for file in files:
            check_size(file.path, file.size_bytes)
            return Declared(self._registry.download_bytes(file.artifact), file.path)
        return None

    def load(self, key: Key, source: Source, members: Members) -> Model:
        """Fetch a file, check its digest, load it and run it once.

        Args:
            members: What an ensemble may consist of.

        Raises:
            FailedPrecondition: It cannot be served.
            DataLoss, Unavailable, DeadlineExceeded: It cannot be fetched.
        """
        began, held = time.perf_counter(), held_bytes()
        config, labels = self._config(source), self._labels(source)
        if config.steps:
            runner: Runner | DecoupledRunner = EnsembleRunner(config, members)
        else:
            runner = self._open_runner(self._file(source), config)
        try:
            batched, engine = _started(runner, config)
        except BaseException:
            runner.close()
            raise
        self._metrics.watch(key, source.number, engine.statistics, lambda: engine.waiting)
        give_back_memory()  # of what was fetched and made ready
        log.info(
            "model_loaded",
            project=key.project,
            model=key.model,
            version=str(source.version),
            file=source.file,
            batched=batched,
            seconds=round(time.perf_counter() - began, 3),
        )
        answers = Answers(self._answer_bytes) if config.keeps_answers else None
        return Model(
            key, source, runner, config, batched, engine, answers, labels, max(0, held_bytes() - held)
        )

    def _config(self, source: Source) -> ModelConfig:
        if source.config is None:
            return ModelConfig(self._batching)
        config = read_config(source.config.text, source.config.file, self._batching)
        if config.steps:
            # Steps are batched each in its own queue: of the whole, so many may be under way as fill a batch of them.
            batching = replace(
                config.batching, workers=config.batching.max_size, max_size=1, preferred_sizes=()
            )
            config = replace(config, batching=batching)
        if bool(config.function or config.steps) != (source.format is Format.CONFIG):
            raise FailedPrecondition(
                f"{source.file!r} of {source.version} is served by what {source.config.file!r} does not say; a Python function "
                "and an ensemble are served by their configuration, a model by its own file"
            )
        return config

    def _labels(self, source: Source) -> Mapping[str, Sequence[str]]:
        """Fetch the names of classes, by output."""
        try:
            return {
                output: self._registry.download_bytes(artifact).decode().splitlines()
                for output, artifact in source.labels
            }
        except UnicodeDecodeError as error:
            raise FailedPrecondition(
                f"a file of labels of {source.version} is no UTF-8: {error.reason}"
            ) from None

    def _file(self, source: Source) -> ModelFile:
        digest = ArtifactName.parse(source.artifact).digest
        return ModelFile(source.format, digest, lambda: self._registry.download_bytes(source.artifact))


def _started(runner: Runner | DecoupledRunner, config: ModelConfig) -> tuple[bool, Engine | DecoupledEngine]:
    """Run a model for the first time; return whether its requests may be joined, and its engine."""
    statistics = BatchStatistics()
    config = _padded(config, runner.signature)
    if isinstance(
        runner, DecoupledRunner
    ):  # who knows what a made-up request would set off, and for how long
        return False, DecoupledEngine(runner, config.batching, statistics=statistics)
    batched = _made_warm(runner, config)
    waits = bool(
        config.steps or config.function
    )  # the steps of others, and what a function does, nobody knows
    return batched, Engine(runner, config.batching, joins=batched, waits=waits, statistics=statistics)


def _padded(config: ModelConfig, signature: Signature) -> ModelConfig:
    wish = config.padding
    if wish is None:
        return config
    try:
        padding = padding_along(
            signature, wish.axis, values=wish.values, buckets=wish.buckets, multiple=wish.multiple
        )
    except InvalidArgument as error:
        raise FailedPrecondition(error.message) from error
    return replace(config, batching=replace(config.batching, padding=padding))


def _made_warm(runner: Runner, config: ModelConfig) -> bool:
    """Run a model until it is warm; return whether its requests may be joined."""
    batched = config.batching.max_size > 1 and rows_are_independent(runner, runner.signature)
    if config.warm_up:
        try:
            warm_up_with(runner, runner.signature, config.warm_up)
        except InvalidArgument as error:
            raise FailedPrecondition(f"the model does not take its model_warmup: {error.message}") from error
    else:
        largest = config.batching.max_size if batched else 1
        warm_up(runner, runner.signature, sorted({1, largest}), time.monotonic)
    return batched


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
            f"{path!r} of {version.name} cannot be served; name an ONNX model, a program of torch, a configuration of what runs, or none"
        )
    return files[path]
