"""Stores with tables whose shards join and leave, in tests."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from headrace.parameters.client import ShardedStore
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.tables import ShardedTables
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowSgd
from headrace_optimizers.row_initializer import Normal
from headrace_optimizers.table_config import TableConfig
from headrace_optimizers.table_wire import table_to_proto
from tests.services.parameters.parameter_server import NAME, ParameterServer
from tests.services.parameters.resharding_world import LAYOUT

KEYS = 400
WORDS = TableConfig("words", 3, Normal(0, 1, seed=1), RowAdagrad(0.1))
PLACES = TableConfig("places", 2, Normal(0, 1, seed=2), RowAdam(0.1), max_idle_steps=4)
COUNTED = TableConfig("counted", 2, Normal(0, 1e-9), RowSgd(1))
Worker = tuple[ShardedStore, ShardedTables]


@contextmanager
def workers_of(
    servers: list[ParameterServer], count: int, tables: list[TableConfig], values: Floats, **settings: Any
) -> Iterator[list[Worker]]:
    channels = [server.channel for server in servers]
    with ExitStack() as stack:
        found = []
        for worker in range(count):
            options = {"epoch": 1, "worker": worker, "timeout_s": 60.0, **settings}
            store = stack.enter_context(ShardedStore(channels, NAME, **options))
            store.initialize(LAYOUT, values, [table_to_proto(table) for table in tables])
            found.append((store, stack.enter_context(ShardedTables(channels, NAME, **options))))
        yield found


def keys_of(table: str, worker: int, step: int) -> Keys:
    generator = np.random.default_rng([len(table), worker, step])
    return generator.integers(0, KEYS, 40).astype(np.uint64) * np.uint64(0x123456789ABCDEF)
