"""What others see of a push while the disk has not taken it yet, or never takes it."""

import errno
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import DataLoss, DeadlineExceeded, HeadraceError, StorageFull
from headrace_parameters.core.config import Durability
from headrace_parameters.core.need import Need
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import recover
from headrace_parameters.live import LiveStore
from headrace_parameters.waits import wait_for_values
from tests.unit.parameters.journal_files import LAYOUT, LENGTH, SELDOM, config, model, push_of, same

DISK = config(durability=Durability.DISK)


class Gate:
    """A disk that takes what is written when it is told to, or fails."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = threading.Event()
        self.failure: OSError | None = None

    def force(self, _: int) -> None:
        self.asked.set()
        assert self.open.wait(20)
        if self.failure:
            raise self.failure


def live_store(folder: Path, gate: Gate, waits: list[float] | None = None) -> LiveStore:
    observers = Observers(force=(waits if waits is not None else []).append)
    journal = Journal(folder, DISK, SELDOM, observers, force=gate.force)
    store = LiveStore(DISK, datetime.now(UTC), journal=journal)
    store.initialize(LAYOUT, np.ones(LENGTH, np.float32))
    return store


def version(store: LiveStore) -> int:
    assert store.published
    return store.published.version


def in_background(work: Callable[[], object]) -> tuple[threading.Thread, list[HeadraceError]]:
    errors: list[HeadraceError] = []

    def run() -> None:
        try:
            work()
        except HeadraceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_a_push_is_neither_answered_nor_seen_before_the_disk_has_it(tmp_path: Path) -> None:
    gate = Gate()
    store = live_store(tmp_path, gate)
    pushing, _ = in_background(lambda: store.push(push_of(0)))
    assert gate.asked.wait(20)
    repeating, _ = in_background(lambda: store.is_duplicate(0, 0))

    with pytest.raises(DeadlineExceeded):
        wait_for_values(store, Need(version=1), 0.05, lambda: True, None)
    assert version(store) == 0
    assert pushing.is_alive()
    assert repeating.is_alive(), "a repeated push must not be answered before the first one is safe"

    gate.open.set()
    pushing.join(20)
    repeating.join(20)
    assert version(store) == 1
    store.end(DataLoss("over"))
    assert store.journal
    store.journal.close()


def test_pushes_that_come_while_the_disk_is_busy_share_the_next_wait(tmp_path: Path) -> None:
    gate = Gate()
    waits: list[float] = []
    store = live_store(tmp_path, gate, waits)
    assert store.journal
    first, _ = in_background(lambda: store.push(push_of(0)))
    assert gate.asked.wait(20)
    one_record = store.journal.position
    pushes = (push_of(0, worker=1), push_of(1, worker=0))
    others = [in_background(lambda push=push: store.push(push))[0] for push in pushes]  # type: ignore[misc]  # bound now
    while store.journal._log._written < 3 * one_record:
        threading.Event().wait(0.001)

    gate.open.set()
    for thread in (first, *others):
        thread.join(20)

    assert version(store) == 3
    assert len(waits) == 2
    store.journal.close()


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, DataLoss), (errno.ENOSPC, StorageFull)])
def test_a_disk_that_fails_makes_the_store_read_only_at_the_last_safe_version(
    tmp_path: Path, code: int, kind: type[HeadraceError]
) -> None:
    gate = Gate()
    gate.open.set()
    store = live_store(tmp_path, gate)
    store.push(push_of(0))
    gate.failure = OSError(code, "no")

    for step in (1, 2):
        with pytest.raises(kind, match="read-only until its process restarts"):
            store.push(push_of(step))
    assert version(store) == 1
    assert store.journal
    store.journal.close()


def test_a_journal_may_be_closed_twice(tmp_path: Path) -> None:
    """Two may delete one store at once; the second must not close descriptors that belong to others by now."""
    journal = Journal(tmp_path, DISK, Limits(1 << 30, 1 << 30), Observers())
    journal.close()
    journal.close()


def test_snapshots_are_written_while_pushes_go_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, DISK, Limits(1 << 30, 5), Observers())
    store = LiveStore(DISK, datetime.now(UTC), journal=journal)
    store.initialize(LAYOUT, np.ones(LENGTH, np.float32))
    for step in range(50):
        store.push(push_of(step))
    journal.close()
    found = recover(tmp_path, DISK)
    assert found.changes < 50
    assert same(found, model(DISK, 50, lambda step: [push_of(step)]))
