"""Stores with tables, for tests."""

from collections.abc import Callable

import numpy as np

from headrace.parameters.layout import Floats
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2, tables_pb2
from headrace_optimizers.row_initializer import Uniform, first_rows
from tests.services.parameters.parameter_server import create_request

Tables = Callable[..., ShardedTables]
USERS = tables_pb2.Table(
    name="users",
    dim=3,
    initializer=tables_pb2.RowInitializer(uniform=tables_pb2.UniformRows(low=-1, high=1, seed=4)),
    optimizer=tables_pb2.RowOptimizer(row_wise_adagrad=tables_pb2.RowWiseAdagrad(learning_rate=0.1)),
)
ITEMS = tables_pb2.Table(
    name="items", dim=2, optimizer=tables_pb2.RowOptimizer(sgd=tables_pb2.RowSgd(learning_rate=1))
)


def store_with_tables(*tables: tables_pb2.Table, **settings: object) -> stores_pb2.CreateStoreRequest:
    request = create_request(**settings)  # type: ignore[arg-type]  # named by each test
    request.tables.extend(tables or (USERS, ITEMS))
    return request


def users_of(*keys: int) -> Floats:
    return first_rows(Uniform(-1, 1, seed=4), "users", np.array(keys, np.uint64), 3)


def ones(count: int, dim: int = 3) -> Floats:
    return np.ones((count, dim), np.float32)
