"""Gradients that a log reads where their worker has lent them."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import Cancelled, DataLoss
from headrace.testing.patience import until
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.exchange import GradientLost
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Push
from headrace_parameters.journal.files import write_all
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import recover
from headrace_parameters.live import LiveStore
from tests.unit.parameters.journal_files import LAYOUT, LENGTH, config, model, push_of, same

LEVELS = pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
EACH_LOG = 4  # pushes


class Lent:
    """A loan that holds when it is asked so many times, or until it ends."""

    def __init__(self, times: int = 1000) -> None:
        self._times = times

    def end(self) -> None:
        self._times = 0

    def holds(self) -> bool:
        self._times -= 1
        return self._times >= 0


def lent(step: int, loan: Lent, worker: int = 0) -> Push:
    return replace(push_of(step, worker), loan=loan)


def store_in(folder: Path, settings: StoreConfig) -> LiveStore:
    journal = Journal(folder, settings, Limits(1 << 30, EACH_LOG), Observers())
    store = LiveStore(settings, datetime.now(UTC), journal=journal)
    store.initialize(LAYOUT, np.ones(LENGTH, np.float32))
    return store


def journal_of(store: LiveStore) -> Journal:
    assert store.journal
    return store.journal


def fill_logs(store: LiveStore) -> int:
    """Push until the log is written over an old one, and is half full; return the next step."""
    steps = 5 * EACH_LOG + EACH_LOG // 2
    for step in range(steps):
        journal_of(store)._finish_writing()  # so that there is an old one
        store.push(push_of(step))
    waiters = vars(journal_of(store)._log._to_do)["_waiters"]
    until(
        lambda: waiters
    )  # the log's own thread sleeps, so that what comes next is written by whoever waits for it
    return steps


@LEVELS
def test_a_lent_gradient_is_in_the_log_as_it_was_when_its_push_is_answered(
    tmp_path: Path, durability: Durability
) -> None:
    settings = config(durability=durability)
    store = store_in(tmp_path, settings)
    steps = fill_logs(store)
    push = lent(steps, Lent())
    store.push(push)
    push.gradient.fill(100)
    journal_of(store).close()

    assert same(recover(tmp_path, settings), model(settings, steps + 1, lambda step: [push_of(step)]))


@LEVELS
def test_what_a_worker_takes_back_is_in_the_log_as_it_was(tmp_path: Path, durability: Durability) -> None:
    """Its push was given up before anybody wrote its record."""
    settings = config(durability=durability)
    store = store_in(tmp_path, settings)
    steps = fill_logs(store)
    loan = Lent()
    push = lent(steps, loan)
    journal_of(store).append(Sealed.of(push))

    store.take_back(loan.end)
    push.gradient.fill(100)
    journal_of(store).close()

    assert same(recover(tmp_path, settings), model(settings, steps + 1, lambda step: [push_of(step)]))


@LEVELS
@pytest.mark.parametrize(
    "times", [1, 2, 3], ids=["before it is applied", "while it is applied", "afterwards"]
)
def test_a_gradient_that_changed_before_it_was_written_is_in_no_log(
    tmp_path: Path, durability: Durability, times: int
) -> None:
    """Its sum was made of what is there, so nothing but the missing header tells. Nobody sees what may have come of it."""
    settings = config(durability=durability)
    store = store_in(tmp_path, settings)
    steps = fill_logs(store)

    with pytest.raises(DataLoss):
        store.push(lent(steps, Lent(times)))
    with pytest.raises(DataLoss):
        store.push(push_of(steps))
    assert store.published
    assert store.published.version == steps

    journal_of(store).close()
    assert same(recover(tmp_path, settings), model(settings, steps, lambda step: [push_of(step)]))


def test_a_push_whose_gradient_was_taken_back_before_it_was_written_leaves_the_store_as_it_was(
    tmp_path: Path,
) -> None:
    store = store_in(tmp_path, config())
    with pytest.raises(Cancelled, match="nothing was applied"):
        store.push(lent(0, Lent(1)))

    assert store.push(push_of(0))
    journal_of(store).close()
    assert same(recover(tmp_path, config()), model(config(), 1, lambda step: [push_of(step)]))


@LEVELS
def test_a_record_without_its_header_is_where_the_log_ends(tmp_path: Path, durability: Durability) -> None:
    """A process was killed between the two; the header of the old log's record is still there."""
    settings = config(durability=durability)
    store = store_in(tmp_path, settings)
    steps = fill_logs(store)
    log = journal_of(store)._log
    payload = Sealed.of(push_of(steps)).payload
    size_bytes = Sealed.of(push_of(steps)).size_bytes
    assert log._end + size_bytes <= log._length, "it is written over an old one"
    write_all(log._file, [payload], log._end + size_bytes - payload.nbytes)
    journal_of(store).close()

    assert same(recover(tmp_path, settings), model(settings, steps, lambda step: [push_of(step)]))


def store_whose_log_alone_has_a_gradient(folder: Path, settings: StoreConfig, loan: Lent) -> LiveStore:
    """Return a store with one push of a step that waits for another, whose worker has taken its memory back and written to it."""
    store, push = store_in(folder, settings), lent(0, loan)
    store.push(push)
    loan.end()
    push.gradient.fill(100)
    return store


def test_a_store_ends_when_only_its_log_has_a_gradient_that_waits(tmp_path: Path) -> None:
    """To leave it out, as a store in memory does, would make of the log another run than of the store."""
    settings = config(consistency=Consistency.BSP)
    store = store_whose_log_alone_has_a_gradient(tmp_path, settings, Lent())

    with pytest.raises(GradientLost, match=r"workers \[0\] wrote .* restart the process"):
        store.push(push_of(0, worker=1))
    with pytest.raises(DataLoss):
        store.check_serves()
    journal_of(store).close()

    found = recover(tmp_path, settings)
    assert found.shard.is_duplicate(0, 0)
    found.shard.push(push_of(0, worker=1))
    assert same(found, model(settings, 1, lambda step: [push_of(step), push_of(step, worker=1)]))


def test_what_only_the_log_has_is_not_left_out_when_its_worker_takes_it_back_late(tmp_path: Path) -> None:
    """Its process was frozen for longer than the worker waits. The repeat must be known, or the log has one push twice and is refused."""
    settings = config(consistency=Consistency.BSP)
    loan = Lent()
    store = store_whose_log_alone_has_a_gradient(tmp_path, settings, loan)

    with pytest.raises(GradientLost, match=r"workers \[0\] wrote .* restart the process"):
        store.take_back(loan.end)
    with pytest.raises(DataLoss):
        store.push(push_of(0))
    journal_of(store).close()

    assert recover(tmp_path, settings).shard.is_duplicate(0, 0)


@LEVELS
def test_a_log_that_is_closed_while_somebody_writes_lets_that_be_done(
    tmp_path: Path, durability: Durability
) -> None:
    settings = config(durability=durability)
    store = store_in(tmp_path, settings)
    steps = fill_logs(store)
    journal = journal_of(store)
    journal._finish_writing()
    closing = threading.Thread(target=journal.close)

    class Watching(Lent):
        def holds(self) -> bool:  # between the payload and the header
            closing.start()
            closing.join(0.2)
            return True

    journal.append(Sealed.of(lent(steps, Watching())))
    journal.wait(journal.position)
    closing.join()

    assert same(recover(tmp_path, settings), model(settings, steps + 1, lambda step: [push_of(step)]))
