"""What the files of a durable store give back after their process is gone, whole or damaged."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headrace.errors import DataLoss
from headrace.parameters.layout import Floats
from headrace_optimizers.config import Adagrad, Adam, AdamW, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.record import Sealed, decode
from headrace_parameters.core.shard import Push
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import recover
from tests.unit.parameters.journal_files import SELDOM, JournaledShard, config, model, push_of, same

BOTH = [Durability.PROCESS, Durability.DISK]
OPTIMIZERS = [
    Sgd(0.1),
    Sgd(0.1, momentum=0.9),
    Sgd(0.1, momentum=0.9, nesterov=True),
    Adam(0.1, weight_decay=0.1),
    AdamW(0.1),
    Adagrad(0.1, initial_accumulator=0.5),
]


@given(
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
    st.floats(0, 1e12),
    arrays(np.float32, st.integers(0, 9), elements=st.floats(-1024, 1024, width=32)),
)
def test_a_record_is_read_as_it_was_written(worker: int, step: int, samples: float, gradient: Floats) -> None:
    data = b"".join(Sealed.of(Push(worker, step, samples, gradient)).encode(sequence=7, epoch=2))

    entry = decode(memoryview(bytearray(data + b"what follows")))

    assert (entry.sequence, entry.epoch, entry.size_bytes) == (7, 2, len(data))
    assert isinstance(entry.change, Push)
    assert (entry.change.worker, entry.change.step, entry.change.samples) == (worker, step, samples)
    assert entry.change.gradient.tobytes() == gradient.tobytes()


@pytest.mark.parametrize("durability", BOTH)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("snapshots", [(), (4,), (4, 9)])
def test_replay_gives_the_same_values_and_optimizer_state_to_the_bit(
    tmp_path: Path, durability: Durability, optimizer: Optimizer, snapshots: tuple[int, ...]
) -> None:
    settings = config(optimizer=optimizer, durability=durability)
    store = JournaledShard(tmp_path, settings)
    store.initialize()
    for step in range(12):
        store.push(step)
        if step in snapshots:
            store.snapshot()
    store.journal.close()

    found = recover(tmp_path, settings)

    assert same(found, model(settings, 12, lambda step: [push_of(step)]))
    assert found.changes == 12 - (snapshots[-1] + 1 if snapshots else 0)
    assert not found.cut_bytes


def test_a_gradient_that_waits_for_the_others_of_its_step_is_there_again(tmp_path: Path) -> None:
    settings = config(Consistency.BSP)
    store = JournaledShard(tmp_path, settings)
    store.initialize()
    for step in range(3):
        store.push(step, worker=1)
        store.push(step, worker=0)
    store.push(3, worker=1)
    assert not store.shard.between_steps

    found = recover(tmp_path, settings)

    assert found.shard.is_duplicate(worker=1, step=3)
    assert not found.shard.is_duplicate(worker=0, step=3)
    assert found.shard.push(push_of(3))
    expected = model(settings, 4, lambda step: [push_of(step, 0), push_of(step, 1)])
    assert same(found, expected)


def test_a_store_without_values_is_recovered_without(tmp_path: Path) -> None:
    JournaledShard(tmp_path, config())
    assert recover(tmp_path, config()).shard.published is None


def test_a_recovered_store_goes_on_and_is_recovered_again(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config())
    store.initialize()
    for step in range(6):
        found = recover(tmp_path, config())
        store.shard = found.shard
        store.journal = Journal(
            tmp_path, config(), SELDOM, Observers(), sequence=found.sequence, tail=found.tail
        )
        store.push(step)
        if step == 3:
            store.snapshot()
    assert same(recover(tmp_path, config()), model(config(), 6, lambda step: [push_of(step)]))


def test_the_log_is_cut_behind_the_older_of_two_snapshots(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config(), Limits(log_bytes=1 << 30, log_pushes=3))
    store.initialize()
    for step in range(12):
        store.push(step)
        assert store.journal.due == (step % 3 == 2)
        if store.journal.due:
            store.snapshot()
    # Numbers begin at 1: the first values took 0.
    assert [int(path.name.split("-")[1]) for path in store.snapshots()] == [10, 13]
    assert [int(path.name.split("-")[1]) for path in store.segments()] == [10, 13]


def test_a_log_shorter_than_a_snapshot_is_not_worth_one(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config(), Limits(log_bytes=1, log_pushes=1 << 30))
    store.initialize()
    size = store.snapshots()[0].stat().st_size
    for step in range(20):
        store.push(step)
        assert store.journal.due == (store.journal.log_bytes >= size)
    assert store.journal.due


def written(folder: Path, settings: StoreConfig, pushes: int) -> Path:
    """Write a log and return its last segment."""
    store = JournaledShard(folder, settings)
    store.initialize()
    for step in range(pushes):
        store.push(step)
    store.journal.close()
    return store.segments()[-1]


def test_a_log_cut_off_at_any_byte_of_its_last_record_gives_what_came_before(tmp_path: Path) -> None:
    segment = written(tmp_path, config(), 3)
    data = segment.read_bytes()
    size = len(data) // 3
    before = model(config(), 2, lambda step: [push_of(step)])
    for length in range(2 * size, 3 * size):
        segment.write_bytes(data[:length])
        found = recover(tmp_path, config())
        assert same(found, before)
        assert found.cut_bytes == length - 2 * size
        assert segment.stat().st_size == 2 * size


def test_a_log_flipped_at_any_byte_of_its_last_record_gives_what_came_before(tmp_path: Path) -> None:
    segment = written(tmp_path, config(), 3)
    data = segment.read_bytes()
    size = len(data) // 3
    before = model(config(), 2, lambda step: [push_of(step)])
    for place in range(2 * size, 3 * size):
        segment.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        assert same(recover(tmp_path, config()), before)


def test_a_log_flipped_at_any_byte_before_its_last_record_is_refused(tmp_path: Path) -> None:
    segment = written(tmp_path, config(), 3)
    data = segment.read_bytes()
    for place in range(len(data) // 3 * 2):
        segment.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataLoss, match="cannot be recovered"):
            recover(tmp_path, config())


@pytest.fixture
def with_two_snapshots(tmp_path: Path) -> JournaledShard:
    """Pushes 0 to 3, a snapshot, 4 to 7, a snapshot, 8 and 9."""
    store = JournaledShard(tmp_path, config())
    store.initialize()
    for step in range(10):
        store.push(step)
        if step in (3, 7):
            store.snapshot()
    store.journal.close()
    return store


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_damaged_snapshot_is_got_around_by_the_one_before_and_the_log(
    with_two_snapshots: JournaledShard, tmp_path: Path
) -> None:
    newest = with_two_snapshots.snapshots()[-1]
    whole = newest.read_bytes()
    for place in range(len(whole)):
        flip(newest, place)
        found = recover(tmp_path, config())
        assert found.changes == 6
        assert newest.name in found.notes[0]
        assert same(found, model(config(), 10, lambda step: [push_of(step)]))
        newest.write_bytes(whole)


def test_a_snapshot_that_was_got_around_does_not_count_as_the_one_to_fall_back_to(
    with_two_snapshots: JournaledShard, tmp_path: Path
) -> None:
    store = with_two_snapshots
    flip(store.snapshots()[-1], 100)
    store.restart()
    store.push(10)
    store.snapshot()
    store.push(11)
    flip(store.snapshots()[-1], 100)
    store.restart()
    assert same(recover(tmp_path, config()), model(config(), 12, lambda step: [push_of(step)]))
    for step in (12, 13):
        store.push(step)
        store.snapshot()
    assert len(store.snapshots()) == 2


def test_a_damaged_log_that_a_newer_snapshot_covers_does_no_harm(
    with_two_snapshots: JournaledShard, tmp_path: Path
) -> None:
    flip(with_two_snapshots.segments()[0], 5)
    assert same(recover(tmp_path, config()), model(config(), 10, lambda step: [push_of(step)]))


@pytest.mark.parametrize("place", [5, -5])
def test_a_damaged_snapshot_and_a_damaged_log_behind_the_other_are_refused(
    with_two_snapshots: JournaledShard, tmp_path: Path, place: int
) -> None:
    """Even if it is the last record of its segment: the damaged snapshot shows that there was more."""
    flip(with_two_snapshots.snapshots()[-1], 100)
    flip(with_two_snapshots.segments()[0], place)
    with pytest.raises(DataLoss, match="cannot be recovered"):
        recover(tmp_path, config())


@pytest.mark.parametrize("kind", ["log", "snapshot"])
def test_missing_files_are_refused(with_two_snapshots: JournaledShard, tmp_path: Path, kind: str) -> None:
    files = with_two_snapshots.segments() if kind == "log" else with_two_snapshots.snapshots()
    for path in files:
        path.unlink()
    with pytest.raises(DataLoss, match="cannot be recovered"):
        recover(tmp_path, config())


def test_a_death_between_the_two_steps_of_a_snapshot_costs_nothing(tmp_path: Path) -> None:
    """The next segment is begun, or even has pushes, and the snapshot is not there or half-written."""
    segment = written(tmp_path, config(), 3)
    (tmp_path / f"log-{4:020}").touch()
    (tmp_path / f"snapshot-{4:020}.new").write_bytes(b"half")

    assert same(recover(tmp_path, config()), model(config(), 3, lambda step: [push_of(step)]))

    data = segment.read_bytes()
    segment.write_bytes(data[: len(data) // 3 * 2])
    (tmp_path / f"log-{3:020}").write_bytes(data[len(data) // 3 * 2 :])
    assert same(recover(tmp_path, config()), model(config(), 3, lambda step: [push_of(step)]))


def test_restored_values_are_what_comes_back_and_nothing_older(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config())
    store.initialize()
    saved = store.shard.state()
    for step in range(3):
        store.push(step)
    store.journal.rebase(saved)
    assert same(recover(tmp_path, config()), saved)
    flip(store.snapshots()[-1], 100)
    with pytest.raises(DataLoss):
        recover(tmp_path, config())


@pytest.mark.parametrize("durability", BOTH)
def test_a_journal_whose_folder_gets_its_name_after_the_first_snapshot_goes_on(
    tmp_path: Path, durability: Durability
) -> None:
    """As that of a store that begins with snapshots, or with values of other shards."""
    made = tmp_path / "made"
    made.mkdir()
    settings = config(durability=durability)
    journal = Journal(made, settings, SELDOM, Observers())
    state = model(settings, 0, lambda step: [push_of(step)])
    journal.rebase(state)

    journal.move(tmp_path / "3")
    journal.append(Sealed.of(push_of(0)))
    journal.wait(journal.position)
    journal.close()

    assert recover(tmp_path / "3", settings).changes == 1
