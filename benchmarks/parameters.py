"""How fast gradients and values travel: `python -m benchmarks.parameters [transfer|step] [--json]`.

transfer: one worker and one shard, each a process, against a plain Python socket that moves as many bytes to a process or from it. A
push includes the update. With a large shard, also against a service that leaves the allocator as it is, to show what
`headrace.parameters.malloc` is worth there.

step: a synchronous training step of two workers with two shards, each a process of one thread, against torch's
DistributedDataParallel over gloo in the same workers, with the same model and data. Both ways must train the same parameters.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks._peers import LEARNING_RATE, plain_socket, training_workers
from benchmarks.harness import Case, main
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1 import stores_pb2

STORE = "projects/default/stores/benchmark"
VALUES_PER_MB = 250_000
TRANSFER_SIZES_MB = (1, 16)
MALLOC_SIZE_MB = 64  # buffers above 32 MB are what glibc never keeps by itself
STEPS = {
    1: 10,
    10: 3,
}  # millions of parameters, and steps in one measurement, which then takes a tenth of a second or more
WORKERS = SHARDS = 2
START_S = 60.0
SAME = 1e-5  # sums of two gradients round once; a step size of 1e-3 makes less of it

AS_IT_IS = "from headrace_parameters.__main__ import main; main()"
PLAIN_MALLOC = (
    f"import headrace.parameters.malloc as malloc; malloc.keep_freed_memory = lambda: False; {AS_IT_IS}"
)


@contextmanager
def shard_process(program: str = AS_IT_IS, **more: str) -> Iterator[str]:
    """Run a parameter service on a free port, with `more` settings; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder, "address")
        settings = {
            "ADDRESS": "127.0.0.1:0",
            "ADDRESS_FILE": str(address),
            "METRICS_ADDRESS": "",
            "LOG_LEVEL": "warning",
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {f"HEADRACE_PARAMETERS_{name}": value for name, value in settings.items()},
        )
        try:
            yield _wait_for_text(address, process)
        finally:
            process.terminate()
            process.wait()


def _wait_for_text(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service does not start (status {process.returncode})")
        time.sleep(0.05)
    return path.read_text().strip()


def create_store(
    address: str, index: int, shards: int, consistency: stores_pb2.Consistency.ValueType
) -> None:
    """Make shard `index` of the store at `address`, for plain SGD."""
    request = stores_pb2.CreateStoreRequest(
        name=STORE,
        epoch=1,
        shard_index=index,
        shard_count=shards,
        worker_count=WORKERS,
        consistency=consistency,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=LEARNING_RATE)),
    )
    with StoresClient(address) as stores:
        stores.create(request)


def timed_ms(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does `work` and returns how many milliseconds it took."""

    def measure() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1e3

    return measure


@contextmanager
def transfer() -> Iterator[list[Case]]:
    """Push and pull."""
    keep_freed_memory()
    cases: list[Case] = []
    with ExitStack() as stack:
        for megabytes in TRANSFER_SIZES_MB:
            cases += _transfers(stack, megabytes)
        cases += _allocators(stack)
        yield cases


def _transfers(stack: ExitStack, megabytes: int) -> Iterator[Case]:
    plain = stack.enter_context(plain_socket(4 * megabytes * VALUES_PER_MB))
    yield Case(f"socket push {megabytes} MB", "ms", timed_ms(plain.push))
    yield Case(f"socket pull {megabytes} MB", "ms", timed_ms(plain.pull))
    push, pull = _headrace_transfers(stack, AS_IT_IS, megabytes)
    yield Case(f"push {megabytes} MB", "ms", timed_ms(push), reference=f"socket push {megabytes} MB")
    yield Case(f"pull {megabytes} MB", "ms", timed_ms(pull), reference=f"socket pull {megabytes} MB")


def _allocators(stack: ExitStack) -> Iterator[Case]:
    push, pull = f"push {MALLOC_SIZE_MB} MB", f"pull {MALLOC_SIZE_MB} MB"
    plain_push, plain_pull = _headrace_transfers(stack, PLAIN_MALLOC, MALLOC_SIZE_MB)
    yield Case(f"{push}, plain malloc", "ms", timed_ms(plain_push))
    yield Case(f"{pull}, plain malloc", "ms", timed_ms(plain_pull))
    own_push, own_pull = _headrace_transfers(stack, AS_IT_IS, MALLOC_SIZE_MB)
    yield Case(push, "ms", timed_ms(own_push), reference=f"{push}, plain malloc")
    yield Case(pull, "ms", timed_ms(own_pull), reference=f"{pull}, plain malloc")


def _headrace_transfers(
    stack: ExitStack, program: str, megabytes: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    size = megabytes * VALUES_PER_MB
    address = stack.enter_context(shard_process(program))
    create_store(address, 0, 1, stores_pb2.CONSISTENCY_ASYNC)
    store = stack.enter_context(ShardedStore([address], STORE, epoch=1, worker=0))
    gradient, out = np.ones(size, np.float32), np.empty(size, np.float32)
    store.initialize(FlatLayout((TensorSpec("w", (size,)),)), gradient)
    steps = count()
    return lambda: store.push(next(steps), gradient, samples=1), lambda: store.pull(out=out)


@contextmanager
def step() -> Iterator[list[Case]]:
    """Train 1 and 10 million parameters."""
    cases: list[Case] = []
    with ExitStack() as stack:
        for millions in STEPS:
            cases += _steps(stack, millions)
        yield cases


def _steps(stack: ExitStack, millions: int) -> Iterator[Case]:
    addresses = [stack.enter_context(shard_process()) for _ in range(SHARDS)]
    for index, address in enumerate(addresses):
        create_store(address, index, SHARDS, stores_pb2.CONSISTENCY_BSP)
    workers = stack.enter_context(training_workers(addresses, STORE, millions * 10**6, WORKERS))

    def same() -> None:
        difference = workers.largest_difference()
        assert difference < SAME, f"the two ways to train differ by {difference}"

    stack.callback(same)  # before the workers are stopped: both have taken as many steps then
    gloo = f"DistributedDataParallel {millions}M"
    yield Case(gloo, "ms", lambda: workers.step_ms("ddp", STEPS[millions]))
    yield Case(
        f"headrace {millions}M", "ms", lambda: workers.step_ms("headrace", STEPS[millions]), reference=gloo
    )


if __name__ == "__main__":
    main("parameters", {"transfer": transfer, "step": step})
