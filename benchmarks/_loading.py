"""What `benchmarks.inference load` measures: what it takes to load a model, again and again, in time, bytes and memory."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks._models import perceptron
from benchmarks._serving import MODEL, publish, service
from benchmarks.harness import Case
from headrace.inference.client import InferenceClient

MIB = 1 << 20
SMALL = "small"
CYCLES = 20  # of each round: with the warm-up and five rounds more than a hundred


@contextmanager
def load() -> Iterator[Sequence[Case]]:
    """A model of 90 MB: loaded, loaded again by a new process with the same cache, and unloaded again and again."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = _Loads(Path(name), stack)
        yield [
            Case("first start: load", "s", bench.first),
            Case("first start: fetched", "MiB", bench.fetched),
            Case("second start: load", "s", bench.second, reference="first start: load"),
            Case("second start: fetched", "MiB", bench.fetched, goal=0.5),
            Case("memory of the model / its file", "ratio", bench.memory, goal=1.1),
            Case(f"memory kept after {CYCLES} loads and unloads", "MiB", bench.kept, goal=10),
        ]


class _Loads:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._data = perceptron(1024, 4096, 4096, 256)  # 22 million weights in float32
        address, self._registry = stack.enter_context(service("registry", folder, DATA_DIR=str(folder)))
        self._address = address
        publish(address, self._data)
        publish(address, perceptron(1024, 16, 256), SMALL)
        self._starts = 0
        self._fetched = self._memory = self._kept = 0.0

    def first(self) -> float:
        """Load with an empty cache; return seconds."""
        self._starts += 1
        return self._load()

    def second(self) -> float:
        """Load in a new process with the cache of the first; return seconds."""
        return self._load(cycles=CYCLES)

    def _load(self, cycles: int = 0) -> float:
        cache = str(self._folder / f"cache-{self._starts}")
        with (
            service("inference", self._folder, REGISTRY_ADDRESS=self._address, CACHE_DIR=cache) as (address, process),
            InferenceClient(address, timeout_s=60) as client,
        ):  # fmt: skip
            client.load(SMALL)  # so that what is measured is the model, not the code that runs models
            client.infer(SMALL, {"x": np.ones((1, 1024), np.float32)})
            sent = _read(self._registry)
            before = settled = _memory(process)
            began = time.perf_counter()
            client.load(MODEL)
            took_s = time.perf_counter() - began
            self._fetched = (_read(self._registry) - sent) / MIB
            client.infer(MODEL, {"x": np.ones((1, 1024), np.float32)})
            self._memory = (_memory(process) - before) / len(self._data)
            for cycle in range(cycles):
                client.unload(MODEL)
                if cycle == CYCLES // 4:
                    settled = _memory(process)
                client.load(MODEL)
            if cycles:
                client.unload(MODEL)
                self._kept = (_memory(process) - settled) / MIB
        return took_s

    def fetched(self) -> float:
        """Return the MiB that the registry sent for the last load."""
        return self._fetched

    def memory(self) -> float:
        """Return what the last load took, in sizes of the file."""
        return self._memory

    def kept(self) -> float:
        """Return by how many MiB the process grew over the loads and unloads."""
        return self._kept


def _read(process: psutil.Process) -> float:
    """Return the bytes that a process has read, from files above all: a registry reads what it sends."""
    return float(process.io_counters().read_chars)


def _memory(process: psutil.Process) -> float:
    """Return its share of memory in bytes, mapped files included: the median of some looks."""
    looks = [float(process.memory_full_info().pss) for _ in range(3)]
    return statistics.median(looks)
