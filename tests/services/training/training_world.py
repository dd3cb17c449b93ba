"""Real processes of the registry, the parameter service and the training service, each on a free port."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load

from headrace.parameters.client import StoresClient
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import stores_pb2
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import Version
from headrace.rpc.channel import open_channel
from headrace.training.v1.workers_pb2 import Lead, StartTaskRequest, Strategy, TrainingOptions
from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.program_pb2 import Program
from headrace.types.v1.task_pb2 import Task, WatchTaskRequest

HERE = Path(__file__).parent
# The programs of these tests, then wherever this process itself looks first.
PYTHON_PATH = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
START_S, TASK_S = 60.0, 100.0
ADAMW = stores_pb2.Optimizer(adamw=stores_pb2.AdamW(learning_rate=1e-3, weight_decay=0.01))
SGD = stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=0.05, momentum=0.9))


@dataclass
class Service:
    """One process of a service."""

    process: subprocess.Popen[bytes]
    address_file: Path

    @property
    def address(self) -> str:
        """Where it serves; waits until it does."""
        for _ in range(int(START_S / 0.02)):
            if self.address_file.exists():
                return self.address_file.read_text().strip()
            assert self.process.poll() is None, "the service ended before it served"
            threading.Event().wait(0.02)
        raise AssertionError("the service does not serve")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def service(name: str, folder: Path, **settings: str) -> Iterator[Service]:
    """Start `python -m headrace_<name>`; it is killed afterwards."""
    folder.mkdir(parents=True)
    prefix = f"HEADRACE_{name.upper()}_"
    shared = {"ADDRESS": "127.0.0.1:0", "ADDRESS_FILE": str(folder / "address"), "METRICS_ADDRESS": ""}
    environment = {prefix + key: value for key, value in (shared | settings).items()}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"headrace_{name}"],
            env=os.environ | environment | {"PYTHONPATH": PYTHON_PATH, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    running = Service(process, folder / "address")
    try:
        yield running
    finally:
        running.end()


@contextmanager
def worker(folder: Path, registry: str, **settings: str) -> Iterator[Service]:
    """Start a training worker that may run the programs of these tests."""
    with service(
        "training",
        folder,
        DATA_DIR=str(folder / "data"),
        REGISTRY_ADDRESS=registry,
        ALLOWED_PROGRAMS="headrace_examples,training_programs",
        **settings,
    ) as running:
        yield running


@dataclass
class World:
    """A registry, two parameter processes and two workers."""

    registry_address: str
    shards: list[str]
    workers: list[str]
    worker_processes: list[subprocess.Popen[bytes]]
    _stack: ExitStack
    _names: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        channel = open_channel(self.registry_address)
        self._stack.callback(channel.close)
        self.registry = RegistryClient(channel)

    def create_store(
        self,
        optimizer: stores_pb2.Optimizer,
        *,
        name: str = "",
        epoch: int = 1,
        workers: int = 2,
        snapshots: Sequence[str] = ("", ""),
        consistency: stores_pb2.Consistency.ValueType = stores_pb2.CONSISTENCY_BSP,
        staleness_bound: int = 0,
        backup_workers: int = 0,
    ) -> str:
        """Make a store over both parameter processes and return its name."""
        name = name or f"projects/default/stores/s{next(self._names)}"
        for index, (address, snapshot) in enumerate(zip(self.shards, snapshots, strict=True)):
            with StoresClient(address) as stores:
                stores.create(
                    stores_pb2.CreateStoreRequest(
                        name=name,
                        epoch=epoch,
                        shard_index=index,
                        shard_count=len(self.shards),
                        worker_count=workers,
                        consistency=consistency,
                        staleness_bound=staleness_bound,
                        backup_workers=backup_workers,
                        optimizer=optimizer,
                        snapshots=[snapshot] if snapshot else [],
                    )
                )
        return name

    def request(
        self, program: Program | str, store: str, *, steps: int, **changes: int | str
    ) -> StartTaskRequest:
        """Ask for rank 0 of 1, unless `changes` says otherwise."""
        named = Program(module=program) if isinstance(program, str) else program
        asked = StartTaskRequest(
            name=f"projects/default/tasks/t{next(self._names)}",
            epoch=1,
            world_size=1,
            program=named,
            store=store,
            shards=self.shards,
            options=TrainingOptions(steps=steps, batch_size=16, seed=5),
        )
        for key, value in changes.items():
            setattr(asked.options if hasattr(asked.options, key) else asked, key, value)
        return asked

    def all_reduce(
        self,
        program: Program | str,
        optimizer: stores_pb2.Optimizer,
        *,
        steps: int,
        world_size: int = 2,
        **changes: Any,
    ) -> list[StartTaskRequest]:
        """Ask for all ranks of a run without a parameter server; rank r is meant for worker r."""
        asked = [
            self.request(program, "", steps=steps, rank=rank, world_size=world_size, **changes)
            for rank in range(world_size)
        ]
        for request in asked:
            del request.shards[:]
            request.strategy = Strategy.STRATEGY_ALL_REDUCE
            request.optimizer.CopyFrom(optimizer)
            request.lead.CopyFrom(Lead(address=self.workers[0], task=asked[0].name))
        return asked

    def workers_stub(self, index: int) -> WorkersStub:
        """Return a stub for one of the workers."""
        return stub(self.workers[index], self._stack)

    def run(self, *requests: StartTaskRequest) -> list[Task]:
        """Start each request on a worker of its own, and return the final tasks."""
        stubs = [self.workers_stub(index) for index in range(len(requests))]
        for workers, request in zip(stubs, requests, strict=True):
            workers.StartTask(request)
        return [final(workers, request.name) for workers, request in zip(stubs, requests, strict=True)]

    def weights(self, version: Version) -> dict[str, Floats]:
        """Return the tensors of a version."""
        (weights,) = version.files
        return load(self.registry.download_bytes(weights.artifact))


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start all processes at once, and wait until they serve."""
    with ExitStack() as stack:
        registry = stack.enter_context(
            service("registry", folder / "registry", DATA_DIR=str(folder / "registry" / "data"))
        )
        shards = [
            stack.enter_context(
                service(
                    "parameters", folder / f"shard-{index}", REGISTRY_ADDRESS=registry.address, SLOTS="100"
                )
            )
            for index in range(2)
        ]
        workers = [
            stack.enter_context(worker(folder / f"worker-{index}", registry.address, ALLOW_ARCHIVES="true"))
            for index in range(2)
        ]
        yield World(
            registry.address,
            [shard.address for shard in shards],
            [each.address for each in workers],
            [each.process for each in workers],
            stack,
        )


def stub(address: str, stack: ExitStack) -> WorkersStub:
    """Return a stub whose channel is closed with `stack`."""
    channel = open_channel(address)
    stack.callback(channel.close)
    return WorkersStub(channel)


def watch(workers: WorkersStub, name: str) -> Iterator[Task]:
    """Yield the changes of a task."""
    for response in workers.WatchTask(WatchTaskRequest(name=name), timeout=TASK_S):
        yield response.task


def final(workers: WorkersStub, name: str) -> Task:
    """Return the task when it is final."""
    *_, last = watch(workers, name)
    return last


def until_step(workers: WorkersStub, name: str, step: int) -> Task:
    """Return the task when it has done `step` steps."""
    return next(task for task in watch(workers, name) if task.progress.step >= step)


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the subprocesses of a service: its running ranks."""
    return psutil.Process(process.pid).children()
