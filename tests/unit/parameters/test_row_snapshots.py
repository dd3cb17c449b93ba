"""Snapshots of durable stores with tables: what they write, what they give back, and what damage to their files does."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from headrace.errors import DataLoss
from headrace_parameters.core.config import Consistency
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.shard import Push
from headrace_parameters.journal.journal import Limits
from headrace_parameters.live import LiveStore
from tests.unit.parameters.journal_files import push_of
from tests.unit.parameters.row_journal import DIM, KeptStore, durable, in_memory, row_push, same_rows, table

MANY = 1 << 16


def filled(folder: Path) -> KeptStore:
    """Return a store of 65,536 rows that were saved, and were not touched in the step in which they were."""
    store = KeptStore(folder, durable(), table())
    store.push_rows(row_push(0, keys=MANY, range_of_keys=1 << 62))
    store.push_rows(row_push(1))
    store.snapshot()
    return store


def test_a_snapshot_writes_the_rows_that_have_changed_alone(tmp_path: Path) -> None:
    store = filled(tmp_path)
    whole = sum(path.stat().st_size for path in tmp_path.glob("rows-*"))
    assert whole > MANY * 4 * (DIM + 1)
    for step in range(2, 5):
        store.push_rows(row_push(step))
        before = psutil.Process().io_counters().write_chars
        store.snapshot()
        assert psutil.Process().io_counters().write_chars - before < 20_000
    assert store.die() == 0
    model = in_memory(durable(), table())
    model.push_rows(model.tables["users"], row_push(0, keys=MANY, range_of_keys=1 << 62))
    for step in range(1, 5):
        model.push_rows(model.tables["users"], row_push(step))
    assert same_rows(store.live, model)


def test_snapshots_go_on_from_what_was_written_before_a_restart(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.push_rows(row_push(2))
    store.die()
    store.push_rows(row_push(3))
    before = psutil.Process().io_counters().write_chars
    store.snapshot()
    assert psutil.Process().io_counters().write_chars - before < 20_000
    assert store.die() == 0


def test_files_of_rows_become_one_when_what_changed_is_as_much_as_what_was_there(tmp_path: Path) -> None:
    declared = table(max_rows=30)
    store, model = KeptStore(tmp_path, durable(), declared), in_memory(durable(), declared)
    most = 0
    for step in range(60):
        for each in (store.live, model):
            each.push_rows(each.tables["users"], row_push(step, keys=6, range_of_keys=60))
        store.snapshot()
        most = max(most, len(list(tmp_path.glob("rows-*"))))
    assert most < 24, "files that no snapshot needs go"
    assert store.die() == 0
    assert same_rows(store.live, model)


@pytest.fixture
def with_two_snapshots(tmp_path: Path) -> KeptStore:
    """Pushes 0 to 3, a snapshot, 4 to 7, a snapshot, 8 and 9; the second has what changed since the first."""
    store = KeptStore(tmp_path, durable(), table())
    store.push_rows(row_push(0, keys=400, range_of_keys=1000))
    for step in range(1, 10):
        store.push_rows(row_push(step))
        if step in (3, 7):
            store.snapshot()
    assert store.live.journal
    store.live.journal.close()
    return store


def expected() -> LiveStore:
    model = in_memory(durable(), table())
    model.push_rows(model.tables["users"], row_push(0, keys=400, range_of_keys=1000))
    for step in range(1, 10):
        model.push_rows(model.tables["users"], row_push(step))
    return model


def test_a_damaged_file_of_rows_is_got_around_by_the_snapshot_before_and_the_log(
    with_two_snapshots: KeptStore,
) -> None:
    newest = max(with_two_snapshots.folder.glob("rows-*"))
    whole, model = newest.read_bytes(), expected()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        newest.write_bytes(damaged)
        assert with_two_snapshots.die() == 6
        assert same_rows(with_two_snapshots.live, model)
        newest.write_bytes(whole)


def test_a_damaged_file_of_rows_that_both_snapshots_need_is_refused(with_two_snapshots: KeptStore) -> None:
    oldest = min(with_two_snapshots.folder.glob("rows-*"))
    damaged = bytearray(oldest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    oldest.write_bytes(damaged)
    with pytest.raises(DataLoss, match="is damaged"):
        with_two_snapshots.die()


@pytest.mark.parametrize("damage", [Path.unlink, partial(Path.write_bytes, data=b"")], ids=["gone", "empty"])
def test_after_a_damaged_file_of_rows_the_next_snapshot_has_all_of_them(
    with_two_snapshots: KeptStore, damage: Callable[[Path], object]
) -> None:
    """Found when files were to become one: the log is whole, so nothing is lost."""
    store = with_two_snapshots
    store.die()
    for path in store.folder.glob("rows-*"):
        damage(path)
    store.push_rows(row_push(10, keys=900, range_of_keys=1000))
    store.snapshot()  # fails
    store.snapshot()
    assert store.die() == 0
    model = expected()
    model.push_rows(model.tables["users"], row_push(10, keys=900, range_of_keys=1000))
    assert same_rows(store.live, model)


def test_a_snapshot_is_due_in_the_background_while_rows_are_pushed(tmp_path: Path) -> None:
    store = KeptStore(tmp_path, durable(), table(), limits=Limits(1 << 30, 5))
    model = in_memory(durable(), table())
    for step in range(50):
        for each in (store.live, model):
            each.push_rows(each.tables["users"], row_push(step))
    assert store.die() < 50
    assert same_rows(store.live, model)
    assert any(tmp_path.glob("rows-*"))


def test_files_of_rows_stay_though_no_snapshot_can_be_read_at_the_moment(
    with_two_snapshots: KeptStore,
) -> None:
    store = with_two_snapshots
    store.die()
    assert store.live.journal
    whole = {path: path.read_bytes() for path in store.folder.glob("snapshot-*")}
    for path in whole:
        path.write_bytes(b"")
    store.live.journal._remove_rows()
    for path, content in whole.items():
        path.write_bytes(content)

    assert store.die() == 2
    assert same_rows(store.live, expected())


FEW = Limits(1 << 30, 6)


def push_all(live: LiveStore, pushes: Sequence[Push | RowPush]) -> None:
    for each in pushes:
        live.push(each) if isinstance(each, Push) else live.push_rows(live.tables["users"], each)
        if live.journal:
            live.journal._finish_writing()  # so that the next snapshot is taken when it is due


def pushed_to_by_one(folder: Path, steps: int) -> tuple[KeptStore, LiveStore]:
    """Return a synchronous store with a table that worker 0 alone has pushed to, so that it is never between two steps; and its model."""
    settings = durable(Consistency.BSP)
    store, model = KeptStore(folder, settings, table(), limits=FEW), in_memory(settings, table())
    dense = [push_of(step, worker) for step in range(steps) for worker in (0, 1)]
    for live in (store.live, model):
        push_all(live, [row_push(0), *dense, push_of(steps)])
    return store, model


def assert_goes_on(store: KeptStore, model: LiveStore, steps: int) -> None:
    """Push what all the others wait for."""
    for live in (store.live, model):
        push_all(live, [row_push(0, 1), push_of(steps, 1)])
    assert same_rows(store.live, model)


@pytest.mark.parametrize("steps", [20, 21, 22, 23])
def test_a_log_stays_short_though_some_gradient_always_waits_for_others(tmp_path: Path, steps: int) -> None:
    """Snapshots have what waits, of rows and perhaps of dense values."""
    store, model = pushed_to_by_one(tmp_path, steps)
    assert store.die() <= 2 * FEW.log_pushes
    assert len(list(tmp_path.glob("log-*"))) == 2
    assert_goes_on(store, model, steps)


def test_a_gradient_that_waits_counts_once_whichever_snapshot_a_restart_begins_with(tmp_path: Path) -> None:
    store, model = pushed_to_by_one(tmp_path, 30)
    newest = max(tmp_path.glob("snapshot-*"))
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    assert store.die() > 2 * FEW.log_pushes
    assert_goes_on(store, model, 30)


def test_a_step_that_waits_to_be_clipped_is_no_moment_for_a_snapshot(tmp_path: Path) -> None:
    """Its gradients are summed up already, so that the log alone has them; and it is soon over."""
    settings, few = durable(Consistency.BSP, maximum_gradient_norm=0.5), Limits(1 << 30, 1)
    store, model = KeptStore(tmp_path, settings, table(), limits=few), in_memory(settings, table())
    for live in (store.live, model):
        for step in range(5):
            push_all(live, [push_of(step, 0), push_of(step, 1), row_push(step, 0), row_push(step, 1)])
        push_all(live, [push_of(5, 0), push_of(5, 1)])
    assert store.die() == 2
    for live in (store.live, model):
        push_all(live, [row_push(5, 0), row_push(5, 1)])
    assert same_rows(store.live, model)
