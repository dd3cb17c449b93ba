"""Rows by key: pushes and pulls of 4,096 rows by two workers, ours against torch.distributed.rpc.

Beside them what the rpc server does, done by the workers in its memory, without a call: as fast as any server could be.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks._row_peers import BATCH, DIM, EPSILON, LEARNING_RATE, RowWorkers, row_workers
from benchmarks._shards import shard_process
from benchmarks.harness import Case
from headrace.parameters.client import StoresClient
from headrace.parameters.v1 import stores_pb2, tables_pb2

STORE, TABLE = "projects/default/stores/sparse", "rows"
ROWS = 10_000_000
WORKERS = 2
TIMES = 50  # in one measurement, of each worker: a tenth of a second or more
GOAL = 5.0  # rows per second, over those of rpc


@contextmanager
def sparse(rows: int = ROWS) -> Iterator[list[Case]]:
    """Fill a table of ours and one of an rpc server."""
    with shard_process() as address:
        create_store(address)
        with row_workers(address, STORE, TABLE, rows, WORKERS) as workers:
            yield list(_cases(workers))


def create_store(address: str) -> None:
    """Make a store with an empty table."""
    optimizer = tables_pb2.RowWiseAdagrad(learning_rate=LEARNING_RATE, epsilon=EPSILON)
    request = stores_pb2.CreateStoreRequest(
        name=STORE,
        epoch=1,
        shard_count=1,
        worker_count=WORKERS,
        consistency=stores_pb2.CONSISTENCY_ASYNC,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=LEARNING_RATE)),
    )
    request.tables.add(name=TABLE, dim=DIM, optimizer=tables_pb2.RowOptimizer(row_wise_adagrad=optimizer))
    with StoresClient(address) as stores:
        stores.create(request)


def _cases(workers: RowWorkers) -> Iterator[Case]:
    for theirs, ours in (("push", "push"), ("pull", "pull"), ("push then pull", "push and pull")):
        reference = f"rpc {theirs}"
        yield _case(workers, reference)
        yield _case(workers, f"shared memory {ours}", reference, GOAL)
        yield _case(workers, f"message {ours}", reference)
    for what in ("push", "pull"):
        yield _case(workers, f"no call, {what}", f"rpc {what}")


def _case(workers: RowWorkers, what: str, reference: str = "", goal: float | None = None) -> Case:
    return Case(
        f"{what} of {BATCH} rows",
        "rows/s",
        lambda: workers.rows_per_s(what, TIMES),
        reference=f"{reference} of {BATCH} rows" if reference else "",
        goal=goal,
        more_is_better=True,
    )
