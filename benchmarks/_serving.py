"""A model served by real processes, to be measured: a registry, and an inference service at its default settings but for those given."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.inference.client import InferenceClient
from headrace.inference.messages import infer_request
from headrace.inference.tensors import Array
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, File, Version
from headrace.rpc.channel import open_channel

MODEL = "model"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Served:
    """An inference service that serves `MODEL`."""

    address: str
    process: psutil.Process

    def spent_s(self) -> float:
        """Return the processor time of its process until now, user and system, in seconds."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def request(inputs: Mapping[str, Array]) -> bytes:
    """Return the message that asks for one run of `MODEL`."""
    return infer_request(MODEL, inputs).SerializeToString()


@contextmanager
def served(data: bytes, **settings: str) -> Iterator[Served]:
    """Serve a model; `settings` are those of the inference service."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        registry, _ = stack.enter_context(service("registry", folder, DATA_DIR=name))
        publish(registry, data)
        address, process = stack.enter_context(
            service("inference", folder, REGISTRY_ADDRESS=registry, **settings)
        )
        with InferenceClient(address) as inference:
            inference.load(MODEL)
        yield Served(address, process)


def publish(registry: str, data: bytes, model: str = MODEL) -> None:
    """Make a version of a model."""
    with open_channel(registry) as channel:
        client = RegistryClient(channel)
        file = File(path="model.onnx", artifact=client.upload_bytes("default", data), role=FILE_ROLE_ONNX)
        client.create_version(
            f"projects/default/models/{model}", Version(files=[file], serving_file=file.path)
        )


@contextmanager
def service(service: str, folder: Path, **settings: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a service; yield its address and its process."""
    prefix, written = f"HEADRACE_{service.upper()}_", folder / f"{service}.address"
    written.unlink(missing_ok=True)  # of one that ran before
    settings = {
        "ADDRESS": "127.0.0.1:0",
        "ADDRESS_FILE": str(written),
        "METRICS_ADDRESS": "",
        "LOG_LEVEL": "warning",
        **settings,
    }
    environment = {prefix + key: value for key, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", f"headrace_{service}"], env={**os.environ, **environment}
    )
    try:
        while not written.exists():
            assert process.poll() is None, f"the {service} service ended before it served"
            time.sleep(0.02)
        yield written.read_text().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
