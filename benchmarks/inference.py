"""What serving costs, and what batching gives back: `python -m benchmarks.inference [mlp|digits|workers] [--json]`.

"mlp" and "digits" compare a server process on loopback, at its default settings, with onnxruntime alone: a loop in this
process over one row at a time, with one thread. "workers" compares settings with each other. Callers are threads of
processes of their own, each with one row under way. A rate is of rows answered, a p50 of the time that a caller sees.
"""

import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness import Case, main
from headrace.inference.client import InferenceClient
from headrace.inference.tensors import Array
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, File, Version
from headrace.rpc.channel import open_channel

SECONDS = 1.0  # of every measurement
CALLERS_PER_PROCESS = 16  # more threads than that in one interpreter measure its lock, not the server
MODEL = "model"
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started


@dataclass
class Crowd:
    """Callers who each send one row after the other, and what the last measurement of them gave."""

    ports: Sequence[Connection]
    latencies_s: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """Let all call for `SECONDS`; return rows per second."""
        begin = time.time() + 0.1  # all begin together; time.time is the clock that processes share
        for port in self.ports:
            port.send(begin)
        self.latencies_s = [latency for port in self.ports for latency in port.recv()]
        return len(self.latencies_s) / SECONDS

    def p50_us(self) -> float:
        """Return the median of the last measurement."""
        return statistics.median(self.latencies_s) * 1e6


@contextmanager
def crowd(callers: int, address: str, inputs: dict[str, Array]) -> Iterator[Crowd]:
    """Start callers, and stop them."""
    ports = []
    with ExitStack() as stack:
        for first in range(0, callers, CALLERS_PER_PROCESS):
            ours, theirs = _SPAWN.Pipe()
            count = min(CALLERS_PER_PROCESS, callers - first)
            process = _SPAWN.Process(target=_call, args=(theirs, count, address, inputs), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(ours.send, None)
            ports.append(ours)
        for port in ports:
            port.recv()  # it has imported what it needs
        yield Crowd(ports)


def _call(port: Connection, callers: int, address: str, inputs: dict[str, Array]) -> None:
    """Be a process of callers: at each time that comes in, call for `SECONDS` and answer with the latencies."""
    with InferenceClient(address) as client:
        port.send(None)
        while (begin := port.recv()) is not None:
            seen: list[list[float]] = [[] for _ in range(callers)]
            threads = [
                threading.Thread(target=_call_until, args=(client, inputs, begin, one)) for one in seen
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            port.send([latency for one in seen for latency in one])


def _call_until(client: InferenceClient, inputs: dict[str, Array], begin: float, seen: list[float]) -> None:
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + SECONDS:
        began = time.perf_counter()
        client.infer(MODEL, inputs)
        seen.append(time.perf_counter() - began)


class Raw:
    """A loop around onnxruntime with one thread and one row."""

    def __init__(self, data: bytes, inputs: dict[str, Array]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._inputs = inputs
        self._latencies_s: list[float] = []

    def rate(self) -> float:
        """Run for `SECONDS`; return rows per second."""
        self._latencies_s = []
        end = time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < end:
            self._session.run(None, self._inputs)
            self._latencies_s.append(time.perf_counter() - began)
        return len(self._latencies_s) / SECONDS

    def p50_us(self) -> float:
        """Return the median of the last measurement."""
        return statistics.median(self._latencies_s) * 1e6


@contextmanager
def compared(data: bytes, inputs: dict[str, Array]) -> Iterator[Sequence[Case]]:
    """Serve a model and compare it with onnxruntime alone."""
    raw = Raw(data, inputs)
    with (
        server(data) as address,
        crowd(1, address, inputs) as one,
        crowd(64, address, inputs) as many,
    ):
        # Each p50 comes from the measurement of the case before it.
        yield [
            Case("onnxruntime", "rows/s", raw.rate),
            Case("onnxruntime p50", "us", raw.p50_us),
            Case("1 caller", "rows/s", one.rate, reference="onnxruntime"),
            Case("1 caller p50", "us", one.p50_us, reference="onnxruntime p50"),
            Case("64 callers", "rows/s", many.rate, reference="onnxruntime"),
            Case("64 callers p50", "us", many.p50_us, reference="onnxruntime p50"),
        ]


@contextmanager
def server(data: bytes, **settings: str) -> Iterator[str]:
    """Serve a model by a registry and an inference service, as processes; yield the address.

    Args:
        settings: Of the inference service.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        registry = stack.enter_context(_service("registry", folder, DATA_DIR=name))
        with open_channel(registry) as channel:
            client = RegistryClient(channel)
            file = File(path="model.onnx", artifact=client.upload_bytes("default", data), role=FILE_ROLE_ONNX)
            client.create_version(
                f"projects/default/models/{MODEL}", Version(files=[file], serving_file=file.path)
            )
        address = stack.enter_context(_service("inference", folder, REGISTRY_ADDRESS=registry, **settings))
        with InferenceClient(address) as inference:
            inference.load(MODEL)
        yield address


@contextmanager
def _service(service: str, folder: Path, **settings: str) -> Iterator[str]:
    prefix, written = f"HEADRACE_{service.upper()}_", folder / f"{service}.address"
    settings |= {
        "ADDRESS": "127.0.0.1:0",
        "ADDRESS_FILE": str(written),
        "METRICS_ADDRESS": "",
        "LOG_LEVEL": "warning",
    }
    environment = {prefix + key: value for key, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", f"headrace_{service}"], env={**os.environ, **environment}
    )
    try:
        while not written.exists():
            assert process.poll() is None, f"the {service} service ended before it served"
            time.sleep(0.02)
        yield written.read_text().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def mlp() -> Iterator[Sequence[Case]]:
    """Three layers, 64 to 128 to 128 to 10: so small that the wire is all there is."""
    with compared(perceptron(64, 128, 128, 10), {"x": np.ones((1, 64), np.float32)}) as cases:
        yield cases


def perceptron(*sizes: int) -> bytes:
    """Make layers of these sizes with random weights and a ReLU after each."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for layer, shape in enumerate(itertools.pairwise(sizes)):
        weights.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"h{layer}"]))
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
        value = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", sizes[-1]])],
        initializer=weights,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def workers() -> Iterator[Sequence[Case]]:
    """Compare ways to spend the cores on a model that has work for them: one large batch, or several at a time."""
    data, inputs = perceptron(256, 2048, 2048, 2048, 16), {"x": np.ones((1, 256), np.float32)}
    cores = os.cpu_count() or 1
    choices = sorted({(1, 1), (1, max(1, cores // 2)), (1, cores), (2, 1), (cores, 1)})
    cases = []
    with ExitStack() as stack:
        for workers, threads in choices:
            address = stack.enter_context(server(data, WORKERS=str(workers), THREADS=str(threads)))
            many = stack.enter_context(crowd(64, address, inputs))
            one = stack.enter_context(crowd(1, address, inputs))
            name = f"{workers} workers of {threads} threads"
            cases.append(Case(f"{name}, 64 callers", "rows/s", many.rate))
            cases.append(Case(f"{name}, 1 caller", "rows/s", one.rate))
        yield cases


@contextmanager
def digits() -> Iterator[Sequence[Case]]:
    """The convolutional network of the example, with random weights: they cost as much as trained ones."""
    import torch

    from headrace_examples.digits import Digits
    from headrace_optimization.passes.export import export_model

    program = Digits()
    torch.manual_seed(0)
    inputs = {name: array[:2] for name, array in program.data("test").inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_model(program.model().eval(), inputs, path)
        data = path.read_bytes()
    with compared(data, {name: array[:1] for name, array in inputs.items()}) as cases:
        yield cases


if __name__ == "__main__":
    main("inference", {"mlp": mlp, "digits": digits, "workers": workers})
