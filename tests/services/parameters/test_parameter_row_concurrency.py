"""Rows that many read and change at once."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2
from tests.services.parameters.parameter_server import ParameterServer
from tests.services.parameters.parameter_tables import Tables, store_with_tables

KEYS = np.arange(3000)
PUSHES = 30


def push_ones(tables: ShardedTables) -> None:
    for step in range(PUSHES):
        tables.push_rows("items", step, KEYS, np.ones((KEYS.size, 2), np.float32), samples=1)


def read_until(tables: ShardedTables, total: float) -> list[float]:
    """Return the values seen; each answer has the same in all rows, because each push adds the same to all."""
    seen = [0.0]
    while seen[-1] > total:
        values = tables.pull_rows("items", KEYS).values
        assert values.min() == values.max(), "a push that is half done was seen"
        seen.append(float(values[0, 0]))
    return seen


def test_no_reader_sees_half_a_push_and_no_push_is_lost(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables(worker_count=4, consistency=stores_pb2.CONSISTENCY_ASYNC))
    workers = [open_tables(server, worker=worker) for worker in range(4)]

    with ThreadPoolExecutor(4) as threads:
        pushing = [threads.submit(push_ones, tables) for tables in workers[:2]]
        reading = [threads.submit(read_until, tables, -2.0 * PUSHES) for tables in workers[2:]]
        for each in pushing:
            each.result()
        seen = [each.result() for each in reading]

    for values in seen:
        assert values[-1] == -2.0 * PUSHES
        assert all(later <= earlier for earlier, later in pairwise(values))
