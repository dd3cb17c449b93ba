"""How fast gradients and values travel: `python -m benchmarks.parameters [SUITE] [--json]`.

transfer: one worker and one shard, each a process, through shared memory and by streams, against a plain Python socket that moves as
many bytes to a process or from it, and beside gRPC alone, which bounds the streams. A push includes the update. With a large shard, also against a service that leaves the allocator as it is, to show what
`headrace.parameters.malloc` is worth there.

step: a synchronous training step of two workers with two shards, each a process of one thread, against torch's
DistributedDataParallel over gloo in the same workers, with the same model and data. All ways must train the same parameters.

overlap: steps whose gradients travel while backward computes them, over links of several bandwidths; see `benchmarks._overlap`.

durability, recover: what it costs to lose nothing; see `benchmarks._durability`.

sparse: pushes and pulls of rows of a table of ten million, by two workers, against torch.distributed.rpc; see `benchmarks._sparse`. It takes 7 GB of memory.

scale, scale_stream, allocator: what more workers and shards bring and cost, and what is paid for memory that is kept; see `benchmarks._scale`.

reshard: how long a shard takes to join a store of 256 MB under load, and how long pushes wait; see `benchmarks._resharding`.

compression: what filters cost, and below which bandwidth each is worth it; see `benchmarks._compression`.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import numpy as np

from benchmarks._bare_grpc import bare_grpc
from benchmarks._compression import compression
from benchmarks._durability import durability, recover
from benchmarks._overlap import overlap
from benchmarks._peers import LEARNING_RATE, plain_socket, training_workers
from benchmarks._resharding import reshard
from benchmarks._scale import allocator, scale, scale_stream
from benchmarks._shards import AS_IT_IS, PLAIN_MALLOC, shard_process
from benchmarks._sparse import sparse
from benchmarks.harness import Case, main
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1 import stores_pb2

STORE = "projects/default/stores/benchmark"
VALUES_PER_MB = 250_000
TRANSFER_SIZES_MB = (1, 16, 128)
MEASURE_BYTES = 64_000_000  # moved in one measurement: long enough not to be decided by one interruption
# Speed of push and pull over that of the socket, at least.
TRANSFER_GOALS = {"shared memory": (1.0, 1.0), "stream": (0.45, 0.55)}
MALLOC_SIZE_MB = 64  # buffers above 32 MB are what glibc never keeps by itself
STEPS = {
    1: 10,
    10: 3,
    100: 1,
}  # millions of parameters, and steps in one measurement, which then takes a tenth of a second or more
# Time of a step over that of DistributedDataParallel, at most, by millions of parameters.
STEP_GOALS = {"shared memory": {10: 0.9, 100: 0.8}, "stream": {10: 1.2, 100: 1.2}}
WORKERS = SHARDS = 2
SAME = 1e-5  # sums of two gradients round once; a step size of 1e-3 makes less of it


def create_store(
    address: str, name: str, index: int, shards: int, consistency: stores_pb2.Consistency.ValueType
) -> None:
    """Make shard `index` of a store at `address`, for plain SGD."""
    request = stores_pb2.CreateStoreRequest(
        name=name,
        epoch=1,
        shard_index=index,
        shard_count=shards,
        worker_count=WORKERS,
        consistency=consistency,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=LEARNING_RATE)),
    )
    with StoresClient(address) as stores:
        stores.create(request)


def speed(size_bytes: int, work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does `work` for about `MEASURE_BYTES` and returns how many GB it moved per second."""
    times = max(1, MEASURE_BYTES // size_bytes)

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return times * size_bytes / (time.perf_counter() - began) / 1e9

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
    size = 4 * megabytes * VALUES_PER_MB
    plain = stack.enter_context(plain_socket(size))
    sockets = f"socket push {megabytes} MB", f"socket pull {megabytes} MB"
    yield Case(sockets[0], "GB/s", speed(size, plain.push), more_is_better=True)
    yield Case(sockets[1], "GB/s", speed(size, plain.pull), more_is_better=True)
    bare = stack.enter_context(bare_grpc(size))
    for way, move, socket in zip(("push", "pull"), (bare.push, bare.pull), sockets, strict=True):
        name = f"bare gRPC {way} {megabytes} MB"
        yield Case(name, "GB/s", speed(size, move), reference=socket, more_is_better=True)
    address = stack.enter_context(shard_process())
    for transport, goals in TRANSFER_GOALS.items():
        works = _headrace_transfers(stack, address, megabytes, transport)
        for way, work, socket, goal in zip(("push", "pull"), works, sockets, goals, strict=True):
            name = f"{transport} {way} {megabytes} MB"
            yield Case(name, "GB/s", speed(size, work), reference=socket, goal=goal, more_is_better=True)


def _allocators(stack: ExitStack) -> Iterator[Case]:
    size = 4 * MALLOC_SIZE_MB * VALUES_PER_MB
    names = f"stream push {MALLOC_SIZE_MB} MB", f"stream pull {MALLOC_SIZE_MB} MB"
    plain, own = (
        _headrace_transfers(stack, stack.enter_context(shard_process(program)), MALLOC_SIZE_MB, "stream")
        for program in (PLAIN_MALLOC, AS_IT_IS)
    )
    for name, work in zip(names, plain, strict=True):
        yield Case(f"{name}, plain malloc", "GB/s", speed(size, work), more_is_better=True)
    for name, work in zip(names, own, strict=True):
        yield Case(name, "GB/s", speed(size, work), reference=f"{name}, plain malloc", more_is_better=True)


def _headrace_transfers(
    stack: ExitStack, address: str, megabytes: int, transport: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a push and a pull of a store of its own at `address`."""
    size, name = megabytes * VALUES_PER_MB, f"{STORE}-{transport.replace(' ', '-')}"
    create_store(address, name, 0, 1, stores_pb2.CONSISTENCY_ASYNC)
    shared = transport == "shared memory"
    store = stack.enter_context(ShardedStore([address], name, epoch=1, worker=0, shared_memory=shared))
    gradient, out = store.gradient_memory(size), np.empty(size, np.float32)
    gradient.fill(1)
    store.initialize(FlatLayout((TensorSpec("w", (size,)),)), gradient)
    store.pull(out=out)
    assert store.transport == transport, store.why_stream
    steps = count()
    return lambda: store.push(next(steps), gradient, samples=1), lambda: store.pull(out=out)


@contextmanager
def step() -> Iterator[list[Case]]:
    """Train 1 and 10 million parameters."""
    with ExitStack() as stack:
        yield [*_steps(stack, 1, STEP_GOALS), *_steps(stack, 10, STEP_GOALS)]


@contextmanager
def step_large() -> Iterator[list[Case]]:
    """Train 100 million parameters, through shared memory alone: it takes 10 GB of memory as it is."""
    with ExitStack() as stack:
        yield list(_steps(stack, 100, ["shared memory"]))


def _steps(stack: ExitStack, millions: int, transports: Collection[str]) -> Iterator[Case]:
    addresses = [stack.enter_context(shard_process()) for _ in range(SHARDS)]
    stores = {transport: f"{STORE}-{transport.replace(' ', '-')}" for transport in transports}
    for name in stores.values():
        for index, address in enumerate(addresses):
            create_store(address, name, index, SHARDS, stores_pb2.CONSISTENCY_BSP)
    workers = stack.enter_context(training_workers(addresses, stores, millions * 10**6, WORKERS))

    def same() -> None:
        difference = workers.largest_difference()
        assert difference < SAME, f"the ways to train differ by {difference}"

    stack.callback(same)  # before the workers are stopped: all have taken as many steps then
    gloo = f"DistributedDataParallel {millions}M"
    yield Case(gloo, "ms", lambda: workers.step_ms("ddp", STEPS[millions]))
    for transport in transports:
        measure = functools.partial(workers.step_ms, transport, STEPS[millions])
        yield Case(
            f"{transport} {millions}M",
            "ms",
            measure,
            reference=gloo,
            goal=STEP_GOALS[transport].get(millions),
        )


if __name__ == "__main__":
    main(
        "parameters",
        {
            "allocator": allocator,
            "compression": compression,
            "durability": durability,
            "overlap": overlap,
            "recover": recover,
            "reshard": reshard,
            "sparse": sparse,
            "scale": scale,
            "scale_stream": scale_stream,
            "transfer": transfer,
            "step": step,
            "step_large": step_large,
        },
    )
