"""Room that was reserved for rows is given back when nothing comes of them."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import HeadraceError, NotFound, QuotaExceeded, StorageFull
from headrace.names import StoreName
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.table_config import TableConfig
from headrace_parameters import save_point
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.journal import Limits
from headrace_parameters.journal.shelf import Shelf
from headrace_parameters.live import LiveStore
from headrace_parameters.table import StoreTable
from tests.unit.parameters.journal_files import LAYOUT, LENGTH, config
from tests.unit.parameters.row_journal import in_memory, row_push, table

MOST = 1 << 20
NAME = config().name


def stores(folder: Path, most: int = MOST) -> StoreTable:
    def nothing_to_read(_: stores_pb2.CreateStoreRequest) -> None:
        raise AssertionError("nobody recovers")

    shelf = Shelf(folder, Limits(1 << 30, 1 << 30), nothing_to_read)  # type: ignore[arg-type]  # it never returns
    return StoreTable(max_stores=4, max_bytes=most, now=lambda: datetime.now(UTC), shelf=shelf)


def created(held: StoreTable, tables: tuple[TableConfig, ...] = ()) -> LiveStore:
    store = held.create(config(tables=tables), stores_pb2.CreateStoreRequest(), lambda _: None)
    assert store.journal
    return store


def largest_free(held: StoreTable) -> int:
    """Return how much a table of another store may reserve."""
    few, many = 0, MOST + 1
    while many - few > 1:
        middle = (few + many) // 2
        try:
            held.reserve_rows(StoreName("default", "another"), "rows", middle)
            few = middle
        except QuotaExceeded:
            many = middle
    held.reserve_rows(StoreName("default", "another"), "rows", 0)
    return few


def full_disk(store: LiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: ShardState) -> None:
        raise StorageFull("no room on the disk")

    assert store.journal
    monkeypatch.setattr(store.journal, "rebase", refuse)


def test_first_values_that_could_not_be_written_reserve_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = stores(tmp_path)
    store, free = created(held), largest_free(held)
    full_disk(store, monkeypatch)
    with pytest.raises(StorageFull):
        store.initialize(LAYOUT, np.ones(LENGTH, np.float32), [table()])
    assert not store.tables
    assert largest_free(held) == free


def test_a_restore_that_could_not_be_written_reserves_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = in_memory(config(), table())
    larger.push_rows(larger.tables["users"], row_push(0, keys=4000, range_of_keys=1 << 60))
    held = stores(tmp_path)
    store = created(held)
    store.initialize(LAYOUT, np.ones(LENGTH, np.float32), [table()])
    free = largest_free(held)
    with monkeypatch.context() as broken:
        full_disk(store, broken)
        with pytest.raises(StorageFull):
            save_point.restore(store, larger.state())
    assert largest_free(held) == free
    empty = save_point.saved(store)

    save_point.restore(store, larger.state())
    assert largest_free(held) < free - 4000 * 20
    save_point.restore(store, empty)
    assert largest_free(held) == free


def test_a_store_that_could_not_begin_with_its_snapshot_reserves_nothing(tmp_path: Path) -> None:
    larger = in_memory(config(), table())
    larger.push_rows(larger.tables["users"], row_push(0, keys=4000, range_of_keys=1 << 60))
    held = stores(tmp_path)

    def begin(store: LiveStore) -> None:
        save_point.begin(store, larger.state())
        raise NotFound("another shard's snapshot is gone")

    free = largest_free(held)
    with pytest.raises(NotFound):
        held.create(config(), stores_pb2.CreateStoreRequest(), begin)
    assert largest_free(held) == free


def test_a_push_that_reserves_while_its_store_is_deleted_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = stores(tmp_path)
    free = largest_free(held)
    store = created(held)
    end = store.end

    def end_after_a_push(why: HeadraceError) -> None:
        held.reserve_rows(NAME, "users", 1 << 19)
        end(why)

    monkeypatch.setattr(store, "end", end_after_a_push)
    held.delete(NAME, store.config.epoch)
    assert largest_free(held) == free


def test_what_has_become_too_much_can_still_become_less(tmp_path: Path) -> None:
    """A process that recovers its stores may be allowed less than the one before."""
    held = stores(tmp_path)
    held.reserve_rows(NAME, "users", MOST)
    held._room._most = 1000
    held.reserve_rows(NAME, "users", 5000)
    with pytest.raises(QuotaExceeded):
        held.reserve_rows(NAME, "users", 5001)
