"""What more workers and shards bring and cost: `python -m benchmarks.parameters scale`, `scale_stream` or `allocator`.

1, 2 and 4 workers push gradients of 10M parameters to 1, 2 and 4 shards and pull the values (AdamW, BSP), all of them processes:

- GB/s of gradients and values together, over all workers;
- the shards' processor seconds per GB;
- the shards' memory per parameter, in bytes: what they hold after the steps less what they held before the store, without the
  workers' own segments, which shards only map. The goal is values and state (12 bytes) and 15 %.

Each number of workers with each number of shards starts anew in each round, for its memory's sake: a round is about 110 s of processor, and took 160 s on 4 cores that other
work kept busy (load 22).

allocator: one worker and one shard whose memory glibc manages as it likes, against those that keep freed memory (`headrace.parameters.malloc`): speed, and the
memory of either, as above.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count, islice, product
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

from benchmarks._shards import AS_IT_IS, PLAIN_MALLOC, shard_processes
from benchmarks.harness import Case
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1 import stores_pb2

STORE = "projects/default/stores/scale"
PARAMETERS = 10_000_000
COUNTS = (1, 2, 4)
STEPS = 5
STATE_BYTES = 12  # a value and AdamW's two moments, float32
MEMORY_GOAL = 1.15
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started


@contextmanager
def _suite(*, shared_memory: bool) -> Iterator[Sequence[Case]]:
    """Measure every number of workers with every number of shards; at most one of them has processes at a time."""
    cases: list[Case] = []
    for workers, shards in product(COUNTS, COUNTS):
        run = _Run(workers, shards, shared_memory=shared_memory)
        name = f"{workers} workers, {shards} shards"
        cases += [
            Case(f"{name}: speed", "GB/s", run.measure, more_is_better=True),
            Case(f"{name}: processor", "s/GB", partial(getattr, run, "processor_s_per_gb")),
            Case(
                f"{name}: memory",
                "bytes per parameter",
                partial(getattr, run, "bytes_per_parameter"),
                goal=STATE_BYTES * MEMORY_GOAL,
            ),
        ]
    yield cases


class _Run:
    """One number of workers with one number of shards.

    Args:
        keeps: Whether they keep the memory that they free.
    """

    def __init__(self, workers: int, shards: int, *, shared_memory: bool, keeps: bool = True) -> None:
        self._workers, self._shards, self._shared_memory, self._keeps = workers, shards, shared_memory, keeps
        self.processor_s_per_gb = self.bytes_per_parameter = self.worker_bytes_per_parameter = 0.0

    def measure(self) -> float:
        """Start everything, take the steps, stop everything; return GB/s."""
        with ExitStack() as stack:
            ours = psutil.Process()
            known = set(ours.children())
            program = AS_IT_IS if self._keeps else PLAIN_MALLOC
            addresses = stack.enter_context(shard_processes(self._shards, program))
            servers = [child for child in ours.children() if child not in known]
            before = sum(map(_own_bytes, servers))
            self._create(addresses)
            workers = [
                stack.enter_context(_worker(addresses, rank, self._shared_memory, self._keeps))
                for rank in range(self._workers)
            ]
            ports = [port for port, _ in workers]
            began_with = [port.recv() for port in ports]
            self._steps(ports)  # warm: segments are mapped, memory is there
            began, spent = time.perf_counter(), _processor_s(servers)
            self._steps(ports)
            seconds, spent = time.perf_counter() - began, _processor_s(servers) - spent
            gigabytes = STEPS * self._workers * 2 * 4 * PARAMETERS / 1e9
            self.processor_s_per_gb = spent / gigabytes
            self.bytes_per_parameter = (sum(map(_own_bytes, servers)) - before) / PARAMETERS
            of_workers = sum(_own_bytes(worker) for _, worker in workers) - sum(began_with)
            self.worker_bytes_per_parameter = of_workers / self._workers / PARAMETERS
            return gigabytes / seconds

    def _create(self, addresses: Sequence[str]) -> None:
        for index, address in enumerate(addresses):
            request = stores_pb2.CreateStoreRequest(
                name=STORE,
                epoch=1,
                shard_index=index,
                shard_count=self._shards,
                worker_count=self._workers,
                consistency=stores_pb2.CONSISTENCY_BSP,
                optimizer=stores_pb2.Optimizer(adamw=stores_pb2.AdamW(learning_rate=1e-3)),
            )
            with StoresClient(address) as stores:
                stores.create(request)

    def _steps(self, ports: Sequence[Connection]) -> None:
        for port in ports:
            port.send(STEPS)
        for port in ports:
            port.recv()


@contextmanager
def _worker(
    addresses: Sequence[str], rank: int, shared_memory: bool, keeps: bool
) -> Iterator[tuple[Connection, psutil.Process]]:
    """Start a worker; it says how much memory it began with as soon as it is ready."""
    ours, theirs = _SPAWN.Pipe()
    arguments = (theirs, addresses, rank, shared_memory, keeps)
    process = _SPAWN.Process(target=_work, args=arguments, daemon=True)
    process.start()
    yield ours, psutil.Process(process.pid)
    ours.send(0)
    process.join()


def _work(port: Connection, addresses: Sequence[str], rank: int, shared_memory: bool, keeps: bool) -> None:
    if keeps:
        keep_freed_memory()
    began_with = _own_bytes(psutil.Process())
    with ShardedStore(addresses, STORE, epoch=1, worker=rank, shared_memory=shared_memory) as store:
        gradient, values = store.gradient_memory(PARAMETERS), np.empty(PARAMETERS, np.float32)
        gradient.fill(1e-3)
        store.initialize(FlatLayout((TensorSpec("w", (PARAMETERS,)),)), np.zeros(PARAMETERS, np.float32))
        steps = count()
        port.send(began_with)
        while times := port.recv():
            for step in islice(steps, times):
                store.push_pull(step, gradient, samples=1, out=values)
            port.send(None)


def _processor_s(servers: Sequence[psutil.Process]) -> float:
    return sum(sum(server.cpu_times()[:2]) for server in servers)


def _own_bytes(server: psutil.Process) -> int:
    """Return the memory a process has, without the segments of others, which it maps to read (privately: nothing is written)."""
    own, foreign = 0, False
    for line in Path(f"/proc/{server.pid}/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            foreign = "memfd:headrace" in line and " rw-s " not in line
        elif line.startswith("Rss:") and not foreign:
            own += int(line.split()[1]) * 1024
    return own


def scale() -> AbstractContextManager[Sequence[Case]]:
    """Through shared memory."""
    return _suite(shared_memory=True)


def scale_stream() -> AbstractContextManager[Sequence[Case]]:
    """By streams."""
    return _suite(shared_memory=False)


@contextmanager
def allocator() -> Iterator[Sequence[Case]]:
    """Memory that is kept, against memory that glibc manages as it likes."""
    yield [
        case
        for transport, shared_memory in (("shared memory", True), ("stream", False))
        for keeps in (False, True)
        for case in _memory_cases(transport, _Run(1, 1, shared_memory=shared_memory, keeps=keeps), keeps)
    ]


def _memory_cases(transport: str, run: _Run, keeps: bool) -> Iterator[Case]:
    def case(what: str, unit: str, measure: Callable[[], float]) -> Case:
        plain = f"{transport}, {what}, plain malloc"
        name, reference = (f"{transport}, {what}", plain) if keeps else (plain, "")
        return Case(name, unit, measure, reference=reference, more_is_better=what == "speed")

    yield case("speed", "GB/s", run.measure)
    yield case("shard's memory", "bytes per parameter", lambda: run.bytes_per_parameter)
    yield case("worker's memory", "bytes per parameter", lambda: run.worker_bytes_per_parameter)
