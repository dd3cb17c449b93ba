"""Tables and the stores that have them: declared, saved, deleted, counted."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    InvalidArgument,
    NotFound,
)
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2, tables_pb2
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, create_request, flat
from tests.services.parameters.parameter_tables import ITEMS, USERS, Tables, ones, store_with_tables


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


def test_a_snapshot_brings_the_tables_that_a_store_was_made_without(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    store, tables = connect(server), open_tables(server)
    store.initialize(LAYOUT, flat(0))
    tables.push_rows("items", 0, [7], ones(1, 2), samples=1)
    store.push(0, flat(1), samples=1)
    artifact = store.snapshot().artifacts[0]

    server.stores.create(store_with_tables(USERS, epoch=2, snapshots=[artifact]))

    assert open_tables(server, epoch=2).pull_rows("items", [7]).values.tolist() == [[-1, -1]]
    other = tables_pb2.Table(name="items", dim=5, optimizer=USERS.optimizer)
    with pytest.raises(InvalidArgument, match="'items'"):
        server.stores.create(store_with_tables(other, epoch=3, snapshots=[artifact]))


def test_who_brings_the_first_values_declares_tables_and_whoever_comes_later_has_the_same(
    servers: list[ParameterServer], connect: Connect, open_tables: Tables
) -> None:
    for index, server in enumerate(servers):
        server.stores.create(create_request(shard_index=index, shard_count=2))
    store = connect(*servers)
    declared = [USERS, ITEMS]

    store.initialize(LAYOUT, flat(0), declared)
    store.initialize(LAYOUT, flat(0), declared)

    tables = open_tables(*servers)
    tables.push_rows("users", 0, range(50), ones(50), samples=1)
    keys, values = tables.scan_rows("users")
    assert keys.tolist() == list(range(50))
    assert np.array_equal(values, tables.pull_rows("users", range(50)).values)
    assert tables.scan_rows("items")[0].size == 0
    with pytest.raises(InvalidArgument, match="'more'"):
        store.initialize(LAYOUT, flat(0), [tables_pb2.Table(name="more", dim=1, optimizer=ITEMS.optimizer)])
    with pytest.raises(InvalidArgument, match="declared otherwise"):
        store.initialize(LAYOUT, flat(0), [tables_pb2.Table(name="users", dim=1, optimizer=ITEMS.optimizer)])


def test_a_table_is_saved_at_the_moment_of_the_dense_values_also_when_its_pushes_came_first(
    servers: list[ParameterServer], connect: Connect, open_tables: Tables
) -> None:
    """A worker has pushed rows, and is about to push the dense gradient of the step: the snapshot has both."""
    for index, server in enumerate(servers):
        consistency = stores_pb2.CONSISTENCY_ASYNC
        server.stores.create(
            store_with_tables(shard_index=index, shard_count=2, worker_count=1, consistency=consistency)
        )
    store, tables, other = connect(*servers), open_tables(*servers), connect(*servers)
    store.initialize(LAYOUT, flat(0))
    for table, dim in (("users", 3), ("items", 2)):
        tables.push_rows(table, 0, [5], ones(1, dim), samples=1)
    with ThreadPoolExecutor() as threads:
        saving = threads.submit(other.snapshot)
        store.push(0, flat(1), samples=1)
        snapshot = saving.result()

    for index, server in enumerate(servers):
        server.stores.create(
            create_request(epoch=2, shard_index=index, shard_count=2, snapshots=list(snapshot.artifacts))
        )
    versions = {table.version for server in servers for table in server.stores.get(NAME).tables}
    assert snapshot.consistent
    assert (versions, {server.stores.get(NAME).version for server in servers}) == ({1}, {1})


def test_a_checkpoint_of_two_shards_with_tables_is_gone_on_from_by_one(
    servers: list[ParameterServer], connect: Connect, open_tables: Tables
) -> None:
    for index, server in enumerate(servers):
        server.stores.create(store_with_tables(shard_index=index, shard_count=2))
    store, tables = connect(*servers), open_tables(*servers)
    store.initialize(LAYOUT, flat(0))
    keys = range(100)
    tables.push_rows("users", 0, keys, ones(100), samples=1)
    tables.push_rows("items", 0, [], ones(0, 2), samples=1)
    store.push_pull(0, flat(1), samples=1)
    rows = tables.pull_rows("users", keys, step=1).values

    artifacts = list(store.snapshot().artifacts)
    servers[1].stores.create(store_with_tables(epoch=2, snapshots=artifacts))

    alone = open_tables(servers[1], epoch=2)
    assert np.array_equal(alone.pull_rows("users", keys, step=1).values, rows)
    assert len(alone.scan_rows("users")[0]) == 100
    assert {table.version for table in servers[1].stores.get(NAME).tables} == {1}


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
