"""What serving costs, and what batching gives back: `python -m benchmarks.inference [mlp|lone|throughput|open_loop|overload|large|load|batching] [--json]`.

Each suite compares server processes on loopback with onnxruntime alone in this process, in turns. Callers are one thread of this process that
speaks HTTP/2 by itself (`_h2_callers`): they take 10 to 15 us of a core for each call, so one core of callers does not hold up one core of server.
A rate is of requests answered, of one row each. "batching" is the queue alone, without processes.
"""

import itertools
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import numpy as np
import onnxruntime as ort

from benchmarks._batching import batching
from benchmarks._load import SECONDS, Closed, Crowd
from benchmarks._loading import load
from benchmarks._models import identity, perceptron, residual, sentence_encoder
from benchmarks._serving import MODEL, served
from benchmarks.harness import Case, main
from headrace.inference.client import InferenceClient
from headrace.inference.tensors import Array

FRONT_ENDS = ("grpcio", "turbo")
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started


class Raw:
    """A loop around onnxruntime alone."""

    def __init__(self, data: bytes, inputs: Mapping[str, Array], *, threads: int = 1, rows: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._inputs = {name: np.repeat(array, rows, axis=0) for name, array in inputs.items()}
        self._rows = rows
        self._latencies_s: list[float] = []

    def rate(self) -> float:
        """Run for `SECONDS`; return rows per second."""
        self._latencies_s = []
        begin = now = time.perf_counter()
        while now < begin + SECONDS:
            self._session.run(None, self._inputs)
            before, now = now, time.perf_counter()
            self._latencies_s.append(now - before)
        return len(self._latencies_s) * self._rows / (now - begin)

    def p50_ms(self) -> float:
        """Return the median of a run in the last measurement."""
        return statistics.median(self._latencies_s) * 1e3


@contextmanager
def mlp() -> Iterator[Sequence[Case]]:
    """Three layers, 64 to 256 to 256 to 10: so small that the wire is all there is."""
    data, inputs = perceptron(64, 256, 256, 10), {"x": np.ones((1, 64), np.float32)}
    raw = Raw(data, inputs)
    cases = [Case("onnxruntime, 1 thread", "rows/s", raw.rate), Case("onnxruntime p50", "ms", raw.p50_ms)]
    with ExitStack() as stack:
        for front in FRONT_ENDS:
            server = stack.enter_context(served(data, FRONT_END=front))
            many, one = Closed(server, inputs, 64), Closed(server, inputs, 1)
            turbo = front == "turbo"
            cases += [
                Case(
                    f"{front}, 64 callers",
                    "rows/s",
                    many.rate,
                    reference="onnxruntime, 1 thread",
                    goal=0.8 if turbo else None,
                    more_is_better=True,
                ),
                Case(f"{front}, 64 callers: processor time", "us", many.cpu_us, goal=45 if turbo else None),
                Case(f"{front}, 64 callers: p50", "ms", many.p50_ms),
                Case(f"{front}, 1 caller", "rows/s", one.rate, reference="onnxruntime, 1 thread"),
                Case(f"{front}, 1 caller: p50", "ms", one.p50_ms, goal=0.27 if turbo else None),
            ]
        yield cases


@contextmanager
def lone() -> Iterator[Sequence[Case]]:
    """A residual net and one caller: a run that has the machine for itself takes all its cores."""
    data, inputs = residual()
    raw = Raw(data, inputs)
    cases = [Case("onnxruntime, 1 thread", "rows/s", raw.rate), Case("onnxruntime p50", "ms", raw.p50_ms)]
    with ExitStack() as stack:
        for front in FRONT_ENDS:
            one = Closed(stack.enter_context(served(data, FRONT_END=front)), inputs, 1)
            cases += [
                Case(f"{front}, 1 caller", "rows/s", one.rate, reference="onnxruntime, 1 thread"),
                Case(f"{front}, 1 caller: p50", "ms", one.p50_ms, goal=3.5 if front == "turbo" else None),
            ]
        yield cases


@contextmanager
def throughput() -> Iterator[Sequence[Case]]:
    """A residual net and a sentence encoder, 32 callers, beside the best that onnxruntime alone does with any batch and threads."""
    with ExitStack() as stack:
        cases: list[Case] = []
        for name, make in (("residual", residual), ("sentences", sentence_encoder)):
            data, inputs = make()
            best = f"{name}: onnxruntime at its best"
            cases.append(Case(best, "rows/s", _best(data, inputs)))
            for front in FRONT_ENDS:
                many = Closed(stack.enter_context(served(data, FRONT_END=front)), inputs, 32)
                goal = 0.9 if front == "turbo" else None
                label = f"{name}: {front}, 32 callers"
                cases += [
                    Case(label, "rows/s", many.rate, reference=best, goal=goal, more_is_better=True),
                    Case(f"{label}: p50", "ms", many.p50_ms),
                ]
        yield cases


def _best(data: bytes, inputs: Mapping[str, Array]) -> Callable[[], float]:
    """Return what measures the fastest of all combinations of rows and threads: found once, so that each round has one to measure."""
    cores = len(os.sched_getaffinity(0))
    ways = itertools.product((1, 4, 8, 16, 32), sorted({1, max(1, cores // 2), cores}))
    raws = [Raw(data, inputs, threads=threads, rows=rows) for rows, threads in ways]
    return max(raws, key=Raw.rate).rate


@contextmanager
def open_loop() -> Iterator[Sequence[Case]]:
    """Calls that come at times of their own, 70 % of the peak of the same round, beside those of a server that has hardly anything to do."""
    data, inputs = residual()
    with ExitStack() as stack:
        crowd = Crowd(stack.enter_context(served(data, FRONT_END="turbo")), inputs)
        yield [
            Case("peak, 32 callers", "rows/s", crowd.peak),
            Case("p99 at 5 % of peak", "ms", lambda: crowd.p99_ms(0.05)),
            Case(
                "p99 at 70 % of peak",
                "ms",
                lambda: crowd.p99_ms(0.7),
                reference="p99 at 5 % of peak",
                goal=3.0,
            ),
        ]


@contextmanager
def overload() -> Iterator[Sequence[Case]]:
    """Five times as many calls as the server can answer, each with a deadline of a second."""
    data, inputs = residual()
    with ExitStack() as stack:
        crowd = Crowd(stack.enter_context(served(data, FRONT_END="turbo")), inputs, timeout_s=1.0)
        yield [
            Case("peak, 32 callers", "rows/s", crowd.peak),
            Case(
                "answered in time at 5 x peak",
                "rows/s",
                lambda: crowd.goodput(5.0),
                reference="peak, 32 callers",
                goal=0.8,
                more_is_better=True,
            ),
            Case("refused within, p99", "ms", crowd.refused_ms, goal=50),
            Case("answered within, p99", "ms", crowd.answered_ms),
        ]


@contextmanager
def large() -> Iterator[Sequence[Case]]:
    """4 MB in and 4 MB out, beside a socket that sends them back."""
    inputs = {"x": np.ones((1, 1 << 20), np.float32)}
    with ExitStack() as stack:
        cases = [Case("socket", "MB/s", stack.enter_context(_echo(inputs["x"].tobytes())))]
        for front in FRONT_ENDS:
            server = stack.enter_context(served(identity(), FRONT_END=front))
            client = stack.enter_context(InferenceClient(server.address))
            goal = 0.5 if front == "turbo" else None
            call = _speed(lambda client=client: client.infer(MODEL, inputs), inputs["x"].nbytes)  # type: ignore[misc]  # bound now
            cases.append(Case(front, "MB/s", call, reference="socket", goal=goal, more_is_better=True))
        yield cases


def _speed(call: Callable[[], object], size: int) -> Callable[[], float]:
    def measure() -> float:
        calls, begin = 0, time.perf_counter()
        while time.perf_counter() < begin + SECONDS:
            call()
            calls += 1
        return 2 * size * calls / (time.perf_counter() - begin) / 1e6

    return measure


@contextmanager
def _echo(payload: bytes) -> Iterator[Callable[[], float]]:
    """Start a process that sends back what it gets, and return what measures it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_send_back, args=(theirs, len(payload)), daemon=True)
    process.start()
    with socket.create_connection(("127.0.0.1", ours.recv())) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(len(payload))

        def call() -> None:
            connection.sendall(payload)
            _receive(connection, buffer)

        yield _speed(call, len(payload))
    process.join()


def _send_back(port: Connection, size: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port.send(listening.getsockname()[1])
        connection, _ = listening.accept()
        buffer = bytearray(size)
        while _receive(connection, buffer):
            connection.sendall(buffer)


def _receive(connection: socket.socket, buffer: bytearray) -> bool:
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


if __name__ == "__main__":
    main(
        "inference",
        {
            "mlp": mlp,
            "lone": lone,
            "throughput": throughput,
            "open_loop": open_loop,
            "overload": overload,
            "large": large,
            "load": load,
            "batching": batching,
        },
    )
