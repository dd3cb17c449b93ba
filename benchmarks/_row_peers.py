"""The processes that the benchmark of tables talks to: a torch.distributed.rpc server with a table, and workers that use it and ours."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.distributed import rpc

from headrace.parameters.keys import Indices
from headrace.parameters.layout import Floats
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.tables import ShardedTables

DIM = 64
BATCH = 4096  # rows of a push or a pull
LEARNING_RATE, EPSILON = 0.01, 1e-10
CHECKED = 3  # pushes after which both tables must have the same rows
_PREPARED = 64  # batches of keys that are drawn beforehand, and used in turn
_SERVER = "server"
_THREADS = 4  # of the rpc server: more than it has callers
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started

Work = Callable[[Indices], object]


class RpcTable:
    """Rows in one tensor, by their number, with row-wise Adagrad. The rpc server has it, in files that are memory; a worker that opens
    them too can do without a call what the server does, which bounds what any server can reach.

    Args:
        folder: Of the files, in memory.
    """

    held: "RpcTable"

    def __init__(self, rows: int, folder: Path) -> None:
        self.values = torch.from_file(str(folder / "values"), shared=True, size=rows * DIM).view(rows, DIM)
        self.sums = torch.from_file(str(folder / "sums"), shared=True, size=rows)

    def fill(self) -> None:
        """Write to all of it: pages that nobody wrote to are all one, and always in the cache."""
        self.values.fill_(0)
        self.sums.fill_(0)

    def pull(self, keys: torch.Tensor) -> torch.Tensor:
        """Return rows."""
        return self.values.index_select(0, keys)

    def push(self, keys: torch.Tensor, gradients: torch.Tensor) -> None:
        """Do a step with rows; gradients of one row are summed, as ours are."""
        unique, places = torch.unique(keys, return_inverse=True)
        if unique.numel() < keys.numel():
            keys, gradients = unique, torch.zeros(unique.numel(), DIM).index_add_(0, places, gradients)
        sums = self.sums.index_select(0, keys).add_(gradients.square().mean(dim=1))
        self.sums.index_copy_(0, keys, sums)
        scale = sums.sqrt_().add_(EPSILON).reciprocal_().mul_(-LEARNING_RATE)
        self.values.index_add_(0, keys, gradients * scale[:, None])


def _pull(keys: torch.Tensor) -> torch.Tensor:
    return RpcTable.held.pull(keys)


def _push(keys: torch.Tensor, gradients: torch.Tensor) -> None:
    RpcTable.held.push(keys, gradients)


class RowWorkers:
    """Worker processes that all do the same at once."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def rows_per_s(self, what: str, times: int) -> float:
        """Let all do something `times` times; return the rows that all together moved in a second."""
        for pipe in self._pipes:
            pipe.send((what, times))
        slowest: float = max(pipe.recv() for pipe in self._pipes)
        return len(self._pipes) * times * BATCH / slowest


@contextmanager
def row_workers(address: str, store: str, table: str, rows: int, count: int) -> Iterator[RowWorkers]:
    """Start an rpc server with `rows` rows and `count` workers, who fill our table with as many, and stop them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield from _row_workers(address, store, table, rows, count, port, Path(folder))


def _row_workers(
    address: str, store: str, table: str, rows: int, count: int, port: int, folder: Path
) -> Iterator[RowWorkers]:
    server = _SPAWN.Process(target=_serve, args=(port, rows, count + 1, folder), daemon=True)
    server.start()
    pipes, processes = [], [server]
    for worker in range(count):
        ours, theirs = _SPAWN.Pipe()
        arguments = theirs, port, worker, count + 1, address, store, table, rows, folder
        processes.append(_SPAWN.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()  # filled
    yield RowWorkers(pipes)
    for pipe in pipes:
        pipe.send(("stop", 0))
    for process in processes:
        process.join()


def _join(name: str, port: int, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    options = rpc.TensorPipeRpcBackendOptions(num_worker_threads=_THREADS)
    rpc.init_rpc(  # type: ignore[no-untyped-call]  # torch does not type it
        name, rank=rank, world_size=world, rpc_backend_options=options
    )


def _serve(port: int, rows: int, world: int, folder: Path) -> None:
    keep_freed_memory()
    RpcTable.held = RpcTable(rows, folder)
    RpcTable.held.fill()
    _join(_SERVER, port, 0, world)
    rpc.shutdown()


def _work(
    pipe: Connection,
    port: int,
    worker: int,
    world: int,
    address: str,
    store: str,
    table: str,
    rows: int,
    folder: Path,
) -> None:
    keep_freed_memory()
    _join(f"worker{worker}", port, worker + 1, world)
    generator = np.random.default_rng(worker)
    batches = [generator.integers(0, rows, BATCH) for _ in range(_PREPARED)]
    gradients = generator.normal(size=(BATCH, DIM)).astype(np.float32)
    with ShardedTables([address], store, epoch=1, worker=worker) as shared:
        fill(shared, table, worker, world - 1, rows)
        with ShardedTables([address], store, epoch=1, worker=worker, shared_memory=False) as messages:
            works = _works(shared, messages, table, gradients, first_step=rows) | _bounds(
                rows, folder, gradients
            )
            if worker == 0:
                _check(works, batches)
            pipe.send("ready")
            _follow(pipe, works, batches)
    rpc.shutdown()


def fill(tables: ShardedTables, table: str, worker: int, workers: int, rows: int) -> None:
    """Make this worker's part of all rows, by pushes that change nothing."""
    nothing = np.zeros((1 << 16, DIM), np.float32)
    for step, start in enumerate(range(worker << 16, rows, workers << 16)):
        keys = np.arange(start, min(start + (1 << 16), rows))
        tables.push_rows(table, step, keys, nothing[: keys.size], samples=1)


def _works(
    shared: ShardedTables, messages: ShardedTables, table: str, gradients: Floats, first_step: int
) -> dict[str, Work]:
    steps, out, theirs = count(first_step), np.empty_like(gradients), torch.from_numpy(gradients)

    def push(tables: ShardedTables, keys: Indices) -> object:
        return tables.push_rows(table, next(steps), keys, gradients, samples=1)

    def pull(tables: ShardedTables, keys: Indices) -> object:
        return tables.pull_rows(table, keys, out=out).values

    def push_pull(tables: ShardedTables, keys: Indices) -> object:
        return tables.push_pull_rows(table, next(steps), keys, gradients, 1, keys, out=out)

    def rpc_push(keys: Indices) -> object:
        return rpc.rpc_sync(_SERVER, _push, args=(torch.from_numpy(keys), theirs))

    def rpc_pull(keys: Indices) -> object:
        return rpc.rpc_sync(_SERVER, _pull, args=(torch.from_numpy(keys),))

    works: dict[str, Work] = {"rpc push": rpc_push, "rpc pull": rpc_pull}
    works["rpc push then pull"] = lambda keys: (rpc_push(keys), rpc_pull(keys))
    for name, tables in (("shared memory", shared), ("message", messages)):
        works[f"{name} push"] = partial(push, tables)
        works[f"{name} pull"] = partial(pull, tables)
        works[f"{name} push and pull"] = partial(push_pull, tables)
    return works


def _bounds(rows: int, folder: Path, gradients: Floats) -> dict[str, Work]:
    """What the rpc server does, done here, in the same memory."""
    table, out, theirs = RpcTable(rows, folder), torch.empty(gradients.shape), torch.from_numpy(gradients)
    return {
        "no call, pull": lambda keys: torch.index_select(table.values, 0, torch.from_numpy(keys), out=out),
        "no call, push": lambda keys: table.push(torch.from_numpy(keys), theirs),
    }


def _check(works: dict[str, Work], batches: list[Indices]) -> None:
    """Make sure that both tables have the same rows after the same pushes."""
    for keys in batches[:CHECKED]:
        works["rpc push"](keys)
        works["shared memory push"](keys)
    theirs = works["rpc pull"](batches[0])
    assert isinstance(theirs, torch.Tensor)
    for way in ("shared memory pull", "message pull"):
        difference = np.abs(np.asarray(works[way](batches[0])) - theirs.numpy()).max()
        assert difference < 1e-5, f"{way}: the rows differ by {difference}"


def _follow(pipe: Connection, works: dict[str, Work], batches: list[Indices]) -> None:
    turn = 0
    while (asked := pipe.recv())[0] != "stop":
        what, times = asked
        began = time.perf_counter()
        for _ in range(times):
            works[what](batches[turn % _PREPARED])
            turn += 1
        pipe.send(time.perf_counter() - began)
