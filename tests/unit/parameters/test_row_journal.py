"""What the files of a durable store with tables give back after their process is gone, whole or damaged."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DataLoss, FailedPrecondition, QuotaExceeded, StorageFull
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_parameters.core.config import Consistency, Durability
from headrace_parameters.core.rows.memory import needed_bytes
from headrace_parameters.journal.journal import Journal, Observers
from headrace_parameters.live import LiveStore
from tests.unit.parameters.journal_files import SELDOM, config, push_of
from tests.unit.parameters.row_journal import (
    DIM,
    KeptStore,
    durable,
    in_memory,
    row_push,
    same_rows,
    state_of,
    table,
)
from tests.unit.parameters.test_parameter_full_disk import largest_file

STEPS = 12


@pytest.mark.parametrize("optimizer", [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1), RowAdam(0.1)])
@pytest.mark.parametrize("consistency", Consistency)
@pytest.mark.parametrize("snapshots", [(), (4,), (4, 9)])
def test_replay_gives_the_same_rows_to_the_bit(
    tmp_path: Path, optimizer: RowOptimizer, consistency: Consistency, snapshots: tuple[int, ...]
) -> None:
    """Evictions by number and by age, and rows that come back, included."""
    settings, declared = durable(consistency), table(optimizer, max_rows=12, max_idle_steps=8)
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    for step in range(STEPS):
        for worker in range(2):
            for each in (store.live, model):
                assert each.push_rows(each.tables["users"], row_push(step, worker))
        for worker in range(2):
            for each in (store.live, model):
                assert each.push(push_of(step, worker))
        if step in snapshots:
            store.snapshot()

    assert store.die() == 4 * (STEPS - (snapshots[-1] + 1 if snapshots else 0))

    assert same_rows(store.live, model)
    assert model.tables["users"].facts().counts.evicted > 0, "or it shows nothing"
    for worker in range(2):
        assert not store.push_rows(row_push(STEPS - 1, worker)), "it is known"
        for each in (store.live, model):
            assert each.push_rows(each.tables["users"], row_push(STEPS, worker))
    assert same_rows(store.live, model)


@pytest.mark.parametrize("last", range(6), ids=str)
def test_rows_that_are_clipped_with_dense_values_are_the_same_after_a_restart(
    tmp_path: Path, last: int
) -> None:
    """Wherever in a step it comes: rows of both workers, then their dense gradients."""
    settings, declared = durable(Consistency.BSP, maximum_gradient_norm=0.5), table()
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    for number in range(8 + last):
        step, part = divmod(number, 4)
        for each in (store.live, model):
            if part < 2:
                assert each.push_rows(each.tables["users"], row_push(step, part))
            else:
                assert each.push(push_of(step, part - 2))
        if number == 3:
            store.snapshot()
    store.die()
    assert same_rows(store.live, model)
    for number in range(8 + last, 16):
        step, part = divmod(number, 4)
        for each in (store.live, model):
            if part < 2:
                assert each.push_rows(each.tables["users"], row_push(step, part))
            else:
                assert each.push(push_of(step, part - 2))
    assert same_rows(store.live, model)


def test_rows_that_wait_for_the_others_of_their_step_are_there_again(tmp_path: Path) -> None:
    settings, declared = durable(Consistency.BSP), table()
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    store.push_rows(row_push(0, worker=1))
    store.die()

    assert not store.push_rows(row_push(0, worker=1))
    store.push_rows(row_push(0, worker=0))
    for worker in range(2):
        model.push_rows(model.tables["users"], row_push(0, worker))
    assert same_rows(store.live, model)


def written(folder: Path) -> tuple[KeptStore, Path]:
    """Write a log of three pushes of rows, of one length; return it and its last segment."""
    store = KeptStore(folder, durable(), table())
    for step in range(3):
        store.push_rows(row_push(step))
    assert store.live.journal
    store.live.journal.close()
    return store, max(folder.glob("log-*"))


def test_a_log_that_ends_badly_at_any_byte_of_its_last_record_gives_what_came_before(tmp_path: Path) -> None:
    store, segment = written(tmp_path)
    model = in_memory(durable(), table())
    for step in range(2):
        model.push_rows(model.tables["users"], row_push(step))
    data = segment.read_bytes()
    size = len(data) // 3
    for place in range(2 * size, 3 * size):
        segment.write_bytes(data[:place])
        assert store.die() == 2
        assert same_rows(store.live, model)
        segment.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        assert store.die() == 2
        assert same_rows(store.live, model)


def test_a_log_flipped_at_any_byte_before_its_last_record_is_refused(tmp_path: Path) -> None:
    store, segment = written(tmp_path)
    data = segment.read_bytes()
    for place in range(len(data) // 3 * 2):
        segment.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataLoss, match="cannot be recovered"):
            store.die()


def test_a_push_that_no_room_is_left_for_is_refused_and_in_no_log(tmp_path: Path) -> None:
    """Neither on the disk nor in the table: what is written is made, now and after a restart."""
    bound = needed_bytes(DIM, 1, 10)
    settings, declared = durable(), table(max_bytes=bound)
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    for each in (store.live, model):
        each.push_rows(each.tables["users"], row_push(0, keys=4, range_of_keys=1000))
        with pytest.raises(QuotaExceeded):
            each.push_rows(each.tables["users"], row_push(1, keys=50, range_of_keys=1000))
        each.push_rows(each.tables["users"], row_push(1, keys=4, range_of_keys=1000))
    assert store.die() == 2
    assert same_rows(store.live, model)


def test_a_full_disk_refuses_rows_and_changes_nothing(tmp_path: Path) -> None:
    settings, declared = durable(), table()
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    store.push_rows(row_push(0))
    model.push_rows(model.tables["users"], row_push(0))
    length = max(tmp_path.glob("log-*")).stat().st_size
    with largest_file(length + 10), pytest.raises(StorageFull, match="nothing was applied"):
        store.push_rows(row_push(1))
    assert same_rows(store.live, model)
    store.push_rows(row_push(1))
    store.die()
    model.push_rows(model.tables["users"], row_push(1))
    assert same_rows(store.live, model)


def test_rows_need_first_values_to_go_on_from(tmp_path: Path) -> None:
    journal = Journal(tmp_path, durable(), SELDOM, Observers())
    store = LiveStore(config(tables=(table(),)), datetime.now(UTC), journal=journal)
    with pytest.raises(FailedPrecondition, match="call Initialize first"):
        store.push_rows(store.tables["users"], row_push(0))
    journal.close()


def test_rows_are_neither_acknowledged_nor_seen_before_the_disk_has_them(tmp_path: Path) -> None:
    settings = config(durability=Durability.DISK)
    may_go_on, asked = threading.Event(), threading.Event()
    may_go_on.set()

    def force(_: int) -> None:
        asked.set()
        assert may_go_on.wait(20)

    store = KeptStore(tmp_path, settings, table(), force=force)
    users, keys = store.live.tables["users"], row_push(0).keys
    may_go_on.clear()
    asked.clear()
    done: list[str] = []

    def pull() -> None:
        users.pull(keys, None, 0, 20, lambda: True, lambda: np.empty((keys.size, DIM), np.float32))
        done.append("pulled")

    def push() -> None:
        store.push_rows(row_push(0))
        done.append("pushed")

    threads = [threading.Thread(target=push)]
    threads[0].start()
    assert asked.wait(20)
    while state_of(store.live).version == 0:  # it is applied while the disk is at work
        threading.Event().wait(0.001)
    threads += [threading.Thread(target=pull), threading.Thread(target=lambda: users.is_duplicate(0, 0, 0))]
    for thread in threads[1:]:
        thread.start()
    threading.Event().wait(0.05)
    assert not done
    assert all(thread.is_alive() for thread in threads)
    assert users.progress.version == 0

    may_go_on.set()
    for thread in threads:
        thread.join(20)
    assert sorted(done) == ["pulled", "pushed"]
    assert users.progress.version == 1
    store.die()


def test_members_that_change_are_the_same_after_a_restart(tmp_path: Path) -> None:
    """And who computes a step again has the rows it began with."""
    settings, declared = durable(Consistency.BSP), table()
    store, model = KeptStore(tmp_path, settings, declared), in_memory(settings, declared)
    keys, before = row_push(0).keys, np.empty((4, DIM), np.float32)
    for each in (store.live, model):
        each.tables["users"].pull(keys, 0, 0, 1, lambda: True, lambda: before)
        for worker in range(2):
            each.push_rows(each.tables["users"], row_push(0, worker))
        each.push_rows(each.tables["users"], row_push(1, worker=0))
        each.change_members(1, (0, 2))
    store.die()

    assert same_rows(store.live, model)
    again = np.empty((4, DIM), np.float32)
    store.live.tables["users"].pull(keys, 0, 0, 1, lambda: True, lambda: again, 1)
    assert np.array_equal(again, before)
