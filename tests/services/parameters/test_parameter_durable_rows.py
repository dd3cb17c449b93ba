"""Tables of durable stores: what a new process of the same folder has of them, and what a replica has that is promoted."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import NotPrimary, QuotaExceeded
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2
from headrace.testing.patience import until
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    FolderOfArtifacts,
    ParameterServer,
    flat,
    parameter_server,
)
from tests.services.parameters.parameter_tables import ITEMS, USERS, ones, store_with_tables
from tests.services.parameters.replica_pair import REPLICA, Processes, cut_off, primary, replica

LEVELS = [stores_pb2.DURABILITY_PROCESS, stores_pb2.DURABILITY_DISK]
PROCESS = stores_pb2.DURABILITY_PROCESS
ASYNC = stores_pb2.CONSISTENCY_ASYNC
KEYS = [3, 1 << 63, 3, 40]


@contextmanager
def tables_of(server: ParameterServer, *, share: bool = True, worker: int = 0) -> Iterator[ShardedTables]:
    with ShardedTables(
        [server.channel], NAME, epoch=1, worker=worker, timeout_s=60, shared_memory=share
    ) as tables:
        yield tables


def client(server: ParameterServer) -> ShardedStore:
    return server.clients.enter_context(ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=60))


def begun(server: ParameterServer, **request: object) -> None:
    """Make a store with one table that CreateStore, and one that Initialize declares, and one step taken."""
    server.stores.create(store_with_tables(USERS, consistency=ASYNC, **request))
    store = client(server)
    store.initialize(LAYOUT, flat(1), [ITEMS])
    with tables_of(server) as tables:
        tables.push_rows("users", 0, KEYS, ones(4), samples=2)
        tables.push_rows("items", 0, KEYS, ones(4, 2), samples=2)
        store.push(0, flat(1), samples=2)
        tables.push_pull_rows("users", 1, KEYS[:2], ones(2), 2, KEYS)


def rows_of(server: ParameterServer) -> tuple[Floats, Floats]:
    with tables_of(server) as tables:
        return tables.pull_rows("users", KEYS).values, tables.pull_rows("items", KEYS).values


@pytest.mark.parametrize("durability", LEVELS)
def test_the_next_process_has_all_rows_and_knows_what_was_pushed(
    tmp_path: Path, durability: stores_pb2.Durability.ValueType
) -> None:
    with parameter_server(folder=tmp_path) as server:
        begun(server, durability=durability)
        before = rows_of(server)
        size = {table.name: table.size_bytes for table in server.stores.get(NAME).tables}
    with parameter_server(folder=tmp_path) as server:
        assert all(np.array_equal(*pair) for pair in zip(before, rows_of(server), strict=True))
        found = server.stores.get(NAME)
        assert {table.name: (table.version, table.size_bytes) for table in found.tables} == {
            "users": (2, size["users"]),
            "items": (1, size["items"]),
        }
        with tables_of(server) as tables:
            tables.push_rows("users", 1, KEYS[:2], ones(2), samples=2)
            assert np.array_equal(tables.pull_rows("users", KEYS).values, before[0]), "applied once"
            assert tables.push_rows("users", 2, KEYS, ones(4), samples=2).version == 3


def test_rows_that_were_recovered_count_among_the_memory_of_the_process(tmp_path: Path) -> None:
    with parameter_server(folder=tmp_path) as server:
        begun(server, durability=PROCESS)
        taken = sum(table.size_bytes for table in server.stores.get(NAME).tables)
    many = range(100, 2000)
    with parameter_server(folder=tmp_path, max_bytes=taken + 40_000) as server, tables_of(server) as tables:
        with pytest.raises(QuotaExceeded):
            tables.push_rows("users", 2, many, ones(len(many)), samples=1)
        assert tables.push_rows("users", 2, range(100, 200), ones(100), samples=1).version == 3
    with parameter_server(folder=tmp_path, max_bytes=1) as server:  # what was acknowledged is there
        assert server.stores.get(NAME).tables[0].version == 3


def test_restored_rows_are_what_comes_back(tmp_path: Path) -> None:
    artifacts = FolderOfArtifacts(tmp_path)
    with parameter_server(artifacts, folder=tmp_path / "stores") as server:
        begun(server, durability=PROCESS)
        store = client(server)
        with tables_of(server) as tables:  # all at one step, as a checkpoint is
            tables.push_rows("items", 1, KEYS, ones(4, 2), samples=2)
        store.push(1, flat(1), samples=2)
        saved = rows_of(server)
        (artifact,) = store.snapshot().artifacts
        with tables_of(server) as tables:
            tables.push_rows("users", 2, KEYS, ones(4), samples=2)
            tables.push_rows("users", 3, [77], ones(1), samples=2)
        server.stores.restore(NAME, artifact, epoch=1)
    with parameter_server(artifacts, folder=tmp_path / "stores") as server:
        assert all(np.array_equal(*pair) for pair in zip(saved, rows_of(server), strict=True))
        with tables_of(server) as tables:
            assert 77 not in tables.scan_rows("users")[0]


def test_a_push_beyond_a_snapshot_of_rows_is_there_too(tmp_path: Path) -> None:
    with parameter_server(folder=tmp_path, log_pushes=3) as server:
        begun(server, durability=PROCESS)
        with tables_of(server) as tables:
            for step in range(2, 20):
                tables.push_rows("users", step, [step, 3], ones(2), samples=1)
        before = rows_of(server)
    assert any(tmp_path.glob("*/*/*/rows-*"))
    with parameter_server(folder=tmp_path) as server:
        assert all(np.array_equal(*pair) for pair in zip(before, rows_of(server), strict=True))


def pair_with_rows(processes: Processes) -> tuple[ParameterServer, ParameterServer]:
    first, second = processes.start(), processes.start()
    request = store_with_tables(USERS, consistency=ASYNC, durability=REPLICA)
    for server, role in ((second, replica(1)), (first, primary(1, second.channel.address))):
        request.assignment.CopyFrom(role)
        server.stores.create(request)
    client(first).initialize(LAYOUT, flat(1), [ITEMS])
    return first, second


def test_tables_go_on_at_the_replica_with_all_that_was_acknowledged(
    processes: Processes, share: bool
) -> None:
    first, second = pair_with_rows(processes)
    with tables_of(first, share=share) as tables, tables_of(second) as behind:
        for step in range(3):
            tables.push_rows("users", step, KEYS, ones(4), samples=1)
            tables.push_rows("items", step, KEYS, ones(4, 2), samples=1)
        before = tables.pull_rows("users", KEYS).values, tables.pull_rows("items", KEYS).values
        with pytest.raises(NotPrimary):
            behind.push_rows("users", 3, KEYS, ones(4), samples=1)
        with pytest.raises(NotPrimary):
            behind.pull_rows("users", KEYS)
        cut_off(first)
        second.assign(primary(2))

        tables.push_rows("users", 2, KEYS, ones(4), samples=1)
        found = tables.pull_rows("users", KEYS).values, tables.pull_rows("items", KEYS).values
        assert all(np.array_equal(*pair) for pair in zip(before, found, strict=True)), "known, and not twice"
        assert tables.push_pull_rows("users", 3, KEYS, ones(4), 1, KEYS).version == 4


def test_a_new_replica_begins_with_the_rows_there_are(processes: Processes) -> None:
    first, second = pair_with_rows(processes)
    with tables_of(first) as tables:
        tables.push_rows("users", 0, KEYS, ones(4), samples=1)
        cut_off(second)
        first.assign(primary(2))
        tables.push_rows("users", 1, KEYS, ones(4), samples=1)
        third = processes.start()
        request = store_with_tables(USERS, consistency=ASYNC, durability=REPLICA)
        request.assignment.CopyFrom(replica(3))
        third.stores.create(request)
        first.assign(primary(3, third.channel.address))
        tables.push_rows("items", 0, KEYS, ones(4, 2), samples=1)
        until(lambda: first.stores.get(NAME).replica_synced)
        tables.push_rows("users", 2, KEYS, ones(4), samples=1)
        before = tables.pull_rows("users", KEYS).values, tables.pull_rows("items", KEYS).values
    cut_off(first)
    third.assign(primary(4))
    with ExitStack() as stack:
        promoted = stack.enter_context(tables_of(third))
        found = promoted.pull_rows("users", KEYS).values, promoted.pull_rows("items", KEYS).values
    assert all(np.array_equal(*pair) for pair in zip(before, found, strict=True))
