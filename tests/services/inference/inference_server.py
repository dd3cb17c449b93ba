"""An inference server in this process, behind real gRPC, with a real registry beside it."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.inference.client import InferenceClient
from headrace.inference.oip.descriptor_pool import POOL
from headrace.inference.oip.v2.inference_pb2_grpc import (
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, FILE_ROLE_REPORT, File, Version
from headrace.testing import serve
from headrace.testing.server import ServedChannel
from headrace_inference.cache import FileCache
from headrace_inference.core.batching import Arrays, Batching
from headrace_inference.core.catalog import Catalog
from headrace_inference.core.config import ModelConfig
from headrace_inference.decoupled import DecoupledRunner
from headrace_inference.loader import Loader, Model, OpenRunner
from headrace_inference.metrics import ModelMetrics
from headrace_inference.models import Models
from headrace_inference.runners import opening
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.runner import ModelFile, Runner
from headrace_inference.servicer import PROBES, RULES, InferenceServicer
from tests.services.registry.registry_server import serve_registry

WAIT_S = 20  # a bound for tests that would otherwise hang
FUNCTIONS = ("tests.unit.inference.python_models",)  # that may run
_FOLDER = tempfile.TemporaryDirectory()


@dataclass(frozen=True)
class InferenceServer:
    """A server, and what a test says to it."""

    channel: ServedChannel
    registry: RegistryClient
    models: Models
    metrics: CollectorRegistry

    @property
    def address(self) -> str:
        return self.channel.address

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    def publish(self, model: str, *files: bytes, serve_first: bool = True, project: str = "default") -> str:
        """Make the next version of a model in the registry, of ONNX files "0.onnx", "1.onnx"...; return its name."""
        made = [
            File(
                path=f"{number}.onnx",
                artifact=self.registry.upload_bytes(project, data),
                role=FILE_ROLE_ONNX,
            )
            for number, data in enumerate(files)
        ]
        report = File(
            path="report.json", artifact=self.registry.upload_bytes(project, b"{}"), role=FILE_ROLE_REPORT
        )
        version = Version(files=[*made, report], serving_file="0.onnx" if serve_first else "")
        return self.registry.create_version(f"projects/{project}/models/{model}", version).name

    def client(self, **options: Any) -> InferenceClient:
        return InferenceClient(self.address, timeout_s=10, **options)


def open_runner(file: ModelFile, config: ModelConfig) -> Runner | DecoupledRunner:
    """Open a file on this machine, and keep nothing of it on the disk."""
    return opening.Opener(Hardware(), FileCache(Path(_FOLDER.name), max_bytes=0), FUNCTIONS).open(
        file, config
    )


@contextmanager
def serve_inference(
    folder: Path,
    *,
    open_runner: OpenRunner = open_runner,
    batching: Batching = Batching(),  # noqa: B008 - frozen
    slots: int = 50,
    evicts: bool = False,
    is_ready: Callable[[], bool] = lambda: True,
    **server: Any,
) -> Iterator[InferenceServer]:
    """Serve inference with a registry whose data lie in `folder`; `server` is for `headrace.testing.serve`."""
    with serve_registry(folder) as registry_channel:
        registry, collector = RegistryClient(registry_channel), CollectorRegistry()
        metrics = ModelMetrics(collector)
        catalog: Catalog[Model] = Catalog(slots, 1 << 30)
        loader = Loader(registry, open_runner, batching, metrics, answer_bytes=1 << 20)
        models = Models(catalog, loader, metrics, drain_s=WAIT_S, evicts=evicts)
        servicer = InferenceServicer(models, is_ready)
        with serve(
            lambda server: add_GRPCInferenceServiceServicer_to_server(servicer, server),
            rules=RULES,
            pools=[POOL],
            probes=PROBES,
            **server,
        ) as channel:
            yield InferenceServer(channel, registry, models, collector)


class Gate:
    """Lets runs through one by one, once it is closed; until then, all of them.

    `ran` lists the first column of the inputs of every run since it was closed.
    """

    def __init__(self) -> None:
        self.ran: list[list[float]] = []
        self._closed = False
        self._arrived = threading.Semaphore(0)
        self._open = threading.Semaphore(0)

    def close(self) -> None:
        self._closed = True

    def pass_through(self, inputs: Arrays) -> None:
        if self._closed:
            self.ran.append(next(iter(inputs.values()))[:, 0].tolist())
            self._arrived.release()
            assert self._open.acquire(timeout=WAIT_S)

    def wait_for_a_run(self) -> None:
        """Return when one more run stands at the gate."""
        assert self._arrived.acquire(timeout=WAIT_S)

    def let_through(self, runs: int = 1) -> None:
        self._open.release(runs)

    def open_runner(self, file: ModelFile, config: ModelConfig) -> Runner:
        inner = open_runner(file, config)
        assert not isinstance(inner, DecoupledRunner)
        return GatedRunner(inner, self)


class GatedRunner:
    """A real runner behind a gate."""

    def __init__(self, inner: Runner, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    @property
    def signature(self) -> Any:
        return self._inner.signature

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        self._gate.pass_through(inputs)
        return self._inner.run(inputs, outputs)

    def close(self) -> None:
        self._inner.close()
