"""What it costs to lose nothing: the suites `durability` and `recover` of `benchmarks.parameters`.

durability: MB per second of two workers that push at once into one shard of each level, each a process, compared with `memory`; with a
replica two processes, of this machine. Plain SGD, so that the update costs little beside what is compared. Each store is pushed to before until its logs are written over old ones, as
they are from then on. Below it, a plain file: what writing the same bytes costs by itself.

recover: a 256 MB shard with two workers is killed with `kill -9` under load; the seconds until the store answers again with all it had, the
processor's share of them, which depends less on what else the machine does, and the seconds until a reader has pulled everything while
the workers repeat their pushes; then the acknowledged pushes that were lost, and those applied twice.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks._kills import Outcome, Scene, kill_rounds
from benchmarks._shards import shard_process
from benchmarks.harness import Case
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA, Assignment

STORE = "projects/default/stores/durability"
SIZES_MB = (1, 16)
VALUES_PER_MB = 250_000
WORKERS = 2
PUSHES = {1: 40, 16: 6}  # of each worker in one measurement
LEVELS = {
    "memory": (stores_pb2.DURABILITY_MEMORY, None),
    "process": (stores_pb2.DURABILITY_PROCESS, 0.8),
    "disk": (stores_pb2.DURABILITY_DISK, 0.6),
    "replica": (stores_pb2.DURABILITY_REPLICA, 0.7),
    "replica+disk": (stores_pb2.DURABILITY_REPLICA_DISK, None),
}
REPLICATED = (stores_pb2.DURABILITY_REPLICA, stores_pb2.DURABILITY_REPLICA_DISK)
LOGGED = (stores_pb2.DURABILITY_PROCESS, stores_pb2.DURABILITY_DISK, stores_pb2.DURABILITY_REPLICA_DISK)
RECOVER_MB = 256
RECOVER_GOAL_S = 3.0
SETTLED_MB = 1100  # four logs of the default length: the first three are new files


@contextmanager
def durability() -> Iterator[list[Case]]:
    """Push at each level."""
    keep_freed_memory()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        cases: list[Case] = []
        for megabytes in SIZES_MB:
            reference = f"memory {megabytes} MB"
            for level, (safe, goal) in LEVELS.items():
                push = _pushing(stack, folder / f"{level}-{megabytes}", safe, megabytes)
                name = f"{level} {megabytes} MB"
                against = "" if name == reference else reference
                cases.append(Case(name, "MB/s", push, reference=against, goal=goal, more_is_better=True))
            for forced in (False, True):
                name = f"plain file {megabytes} MB" + (", forced" if forced else "")
                cases.append(
                    Case(name, "MB/s", _writing(stack, folder, megabytes, forced), reference=reference)
                )
        yield cases


def _pushing(
    stack: ExitStack, folder: Path, durability: stores_pb2.Durability.ValueType, megabytes: int
) -> Callable[[], float]:
    address = stack.enter_context(shard_process(DATA_DIR=str(folder)))
    request = stores_pb2.CreateStoreRequest(
        name=STORE,
        epoch=1,
        shard_count=1,
        worker_count=WORKERS,
        consistency=stores_pb2.CONSISTENCY_ASYNC,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=1e-3)),
        durability=durability,
    )
    if durability in REPLICATED:
        replica = stack.enter_context(shard_process(DATA_DIR=f"{folder}-replica"))
        _create(replica, request, Assignment(term=1, role=STORE_ROLE_REPLICA))
        _create(address, request, Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=replica))
    else:
        _create(address, request)
    gradient = np.ones(megabytes * VALUES_PER_MB, np.float32)
    workers = [
        stack.enter_context(ShardedStore([address], STORE, epoch=1, worker=worker))
        for worker in range(WORKERS)
    ]
    workers[0].initialize(FlatLayout((TensorSpec("w", gradient.shape),)), gradient)
    threads = stack.enter_context(ThreadPoolExecutor(WORKERS))
    steps = [count() for _ in workers]

    def push(worker: int) -> None:
        for _ in range(PUSHES[megabytes]):
            workers[worker].push(next(steps[worker]), gradient, samples=1)

    if durability in LOGGED:
        for _ in range(SETTLED_MB // megabytes):
            workers[0].push(next(steps[0]), gradient, samples=1)

    def measure() -> float:
        began = time.perf_counter()
        list(threads.map(push, range(WORKERS)))
        return WORKERS * PUSHES[megabytes] * megabytes / (time.perf_counter() - began)

    return measure


def _create(
    address: str, request: stores_pb2.CreateStoreRequest, assignment: Assignment | None = None
) -> None:
    made = stores_pb2.CreateStoreRequest(assignment=assignment)
    made.MergeFrom(request)
    with StoresClient(address) as client:
        client.create(made)


def _writing(stack: ExitStack, folder: Path, megabytes: int, forced: bool) -> Callable[[], float]:
    data = bytes(np.random.default_rng(0).bytes(4 * megabytes * VALUES_PER_MB))
    file = stack.enter_context((folder / f"plain-{megabytes}-{forced}").open("wb", buffering=0))

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(WORKERS * PUSHES[megabytes]):
            file.write(data)
            if forced:
                os.fdatasync(file.fileno())
        seconds = time.perf_counter() - began
        os.ftruncate(file.fileno(), 0)
        file.seek(0)
        return WORKERS * PUSHES[megabytes] * megabytes / seconds

    return measure


@contextmanager
def recover() -> Iterator[list[Case]]:
    """Kill a large shard under load, again in every round."""
    scene = Scene(
        stores_pb2.DURABILITY_PROCESS,
        padding=RECOVER_MB * VALUES_PER_MB,
        least=1,
        snapshot_every=2,  # as the default says for gradients as large as the shard, give or take one
    )
    found: list[Outcome] = []

    def outage() -> float:
        found.append(kill_rounds(scene, 1, seed=len(found)))
        return found[-1].outages_s[0]

    yield [
        Case("until the store serves again", "s", outage, goal=RECOVER_GOAL_S),
        Case("until all values were pulled", "s", lambda: found[-1].pulls_s[0]),
        Case("processor seconds of the start", "s", lambda: found[-1].processor_s[0]),
        Case("acknowledged pushes lost", "", lambda: float(found[-1].lost), goal=0),
        Case("pushes applied twice", "", lambda: float(found[-1].twice), goal=0),
    ]
