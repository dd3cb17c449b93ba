"""Tables and the stores that have them: declared, saved, deleted, counted."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    InvalidArgument,
    NotFound,
)
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import tables_pb2
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, flat
from tests.services.parameters.parameter_tables import USERS, Tables, ones, store_with_tables


def test_a_declaration_comes_back_as_it_was_made(server: ParameterServer) -> None:
    full = tables_pb2.Table(
        name="users",
        dim=3,
        initializer=tables_pb2.RowInitializer(normal=tables_pb2.NormalRows(mean=1, deviation=2, seed=3)),
        optimizer=tables_pb2.RowOptimizer(
            adam=tables_pb2.RowAdam(learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=1e-6)
        ),
        max_rows=1000,
        max_idle_steps=20,
        max_bytes=1 << 19,
    )

    made = server.stores.create(store_with_tables(full))
    again = server.stores.create(store_with_tables(full))

    assert made.tables[0].size_bytes > 0
    made.tables[0].ClearField("size_bytes")
    assert made.tables[0] == full
    assert again.name == made.name


def test_deleting_a_store_ends_pulls_that_wait_and_frees_the_memory_of_its_rows(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables(worker_count=2))
    tables = open_tables(server)
    tables.push_rows("users", 0, range(10_000), ones(10_000), samples=1)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(tables.pull_rows, "users", [1], step=1)
        server.stores.delete(NAME)
        with pytest.raises(NotFound, match=r"deleted|not held"):
            waiting.result()

    server.stores.create(store_with_tables())
    tables.push_rows("users", 0, range(10_000), ones(10_000), samples=1)


def test_a_snapshot_has_the_tables_and_a_store_goes_on_from_it(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    store, tables = connect(server), open_tables(server)
    store.initialize(LAYOUT, flat(0))
    for step in range(3):
        tables.push_rows("users", step, [step, 70, 1 << 63], ones(3), samples=1)
        store.push(step, flat(1), samples=1)
    expected = tables.pull_rows("users", [0, 1, 2, 70, 1 << 63]).values
    artifact = store.snapshot().artifacts[0]

    server.stores.create(store_with_tables(epoch=2, snapshots=[artifact]))

    resumed = open_tables(server, epoch=2)
    pulled = resumed.pull_rows("users", [0, 1, 2, 70, 1 << 63], step=3)
    assert np.array_equal(pulled.values, expected)
    assert pulled.version == 3
    resumed.push_rows("users", 2, [70], ones(1), samples=1)  # again: it changes nothing
    assert np.array_equal(resumed.pull_rows("users", [70]).values[0], expected[3])


def test_a_snapshot_is_not_restored_to_a_store_that_lacks_its_table(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(store_with_tables())
    store = connect(server)
    store.initialize(LAYOUT, flat(0))
    artifact = store.snapshot().artifacts[0]

    with pytest.raises(InvalidArgument, match="'items'"):
        server.stores.create(store_with_tables(USERS, epoch=2, snapshots=[artifact]))


def test_memory_shared_for_rows_is_let_go_when_the_client_closes(server: ParameterServer) -> None:
    assert server.row_segments is not None
    server.stores.create(store_with_tables())
    with ShardedTables([server.channel], NAME, epoch=1, worker=0) as tables:
        tables.pull_rows("users", [1])
        assert server.row_segments.count == 2

    assert server.row_segments.count == 0


def test_memory_shared_for_rows_is_let_go_when_the_store_is_gone(server: ParameterServer) -> None:
    assert server.row_segments is not None
    server.stores.create(store_with_tables())
    with ShardedTables([server.channel], NAME, epoch=1, worker=0) as tables:
        tables.pull_rows("users", [1])
        server.stores.delete(NAME)
        server.row_segments.sweep()

        assert server.row_segments.count == 0


def test_counters_tell_of_rows(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables())
    tables = open_tables(server)
    tables.push_rows("users", 0, [1, 2], ones(2), samples=1)
    tables.pull_rows("users", [1, 2, 3])

    labels = {"store": NAME, "table": "users"}

    def counted(name: str) -> float | None:
        return server.metrics.get_sample_value(f"headrace_parameters_table_{name}", labels)

    assert [counted("rows"), counted("created_rows_total"), counted("evicted_rows_total")] == [2, 2, 0]
    assert [counted("touched_rows_total"), counted("pulled_rows_total")] == [2, 3]
    assert (counted("bytes") or 0) > 0
    assert server.counted("pushes_total") == 1
    assert server.counted("sent_bytes_total") == 36
