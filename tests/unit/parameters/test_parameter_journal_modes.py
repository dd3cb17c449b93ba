"""What a log of accepted pushes gives back under each consistency, with a schedule and with clipping."""

from pathlib import Path

import pytest

from headrace.errors import OutOfRange
from headrace_optimizers.schedule import Decay, Schedule
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.need import Need
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.journal import Journal, Observers
from headrace_parameters.journal.recovery import Recovered, recover
from tests.unit.parameters.journal_files import SELDOM, JournaledShard, config, model, push_of, same

SSP = config(Consistency.SSP, staleness_bound=2)
BACKUP = config(Consistency.BSP, backup_workers=1)
COSINE = Schedule(Decay.COSINE, warmup_steps=3, decay_steps=9, floor=0.1)
# Worker and step of each push that SSP with bound 2 takes, the workers as far apart as they may be.
APART = [(0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (0, 4)]


def begun(folder: Path, settings: StoreConfig) -> JournaledShard:
    store = JournaledShard(folder, settings)
    store.initialize()
    return store


def after(settings: StoreConfig, pushes: list[tuple[int, int]]) -> ShardState:
    """Return what a shard that never died holds."""
    return model(settings, len(pushes), lambda index: [push_of(pushes[index][1], pushes[index][0])])


def gone_on(store: JournaledShard, settings: StoreConfig) -> Recovered:
    """Let the store be the recovered one."""
    found = recover(store.folder, settings)
    store.journal.close()
    store.shard = found.shard
    store.journal = Journal(
        store.folder, settings, SELDOM, Observers(), sequence=found.sequence, tail=found.tail
    )
    return found


@pytest.mark.parametrize("snapshot_after", [None, 2, 6])
def test_ssp_comes_back_with_the_clocks_of_all_workers_and_their_bound(
    tmp_path: Path, snapshot_after: int | None
) -> None:
    store = begun(tmp_path, SSP)
    for index, (worker, step) in enumerate(APART):
        assert same(gone_on(store, SSP), after(SSP, APART[:index]))
        store.push(step, worker)
        if index == snapshot_after:
            store.snapshot()

    shard = recover(tmp_path, SSP).shard

    assert shard.published
    assert (shard.published.slowest, shard.published.furthest) == (5, 6)
    assert shard.is_duplicate(worker=0, step=4)
    assert shard.missing_workers(Need(clock=6)) == [0]
    with pytest.raises(OutOfRange):
        shard.takes(push_of(8, worker=1))


@pytest.mark.parametrize("snapshots", [False, True])
def test_late_gradients_of_backup_workers_are_not_in_the_log_and_stay_late(
    tmp_path: Path, snapshots: bool
) -> None:
    store = begun(tmp_path, BACKUP)
    first = [0, 1, 1, 0, 1]
    for step, worker in enumerate(first):
        store.push(step, worker)
        assert not store.shard.takes(push_of(step, 1 - worker)), "the step is complete without it"
        if snapshots:
            store.snapshot()
        replayed = gone_on(store, BACKUP).changes
        assert replayed == (0 if snapshots else step + 1)
        assert not store.shard.takes(push_of(step, 1 - worker))
    assert same(recover(tmp_path, BACKUP), after(BACKUP, list(zip(first, range(5), strict=True))))


def test_to_ask_whether_a_gradient_is_taken_changes_nothing(tmp_path: Path) -> None:
    for settings in (SSP, BACKUP, config(Consistency.BSP)):
        store = begun(tmp_path, settings)
        before = store.shard.published
        for _ in range(2):
            assert store.shard.takes(push_of(0))
        assert store.shard.published is before
        assert store.shard.between_steps
        store.journal.destroy()
        tmp_path.mkdir()


@pytest.mark.parametrize("consistency", [Consistency.BSP, Consistency.ASYNC])
@pytest.mark.parametrize("snapshots", [False, True])
def test_the_learning_rate_follows_from_the_version_after_every_recovery(
    tmp_path: Path, consistency: Consistency, snapshots: bool
) -> None:
    settings = config(consistency, schedule=COSINE)
    store = begun(tmp_path, settings)
    pushes = [(worker, step) for step in range(14) for worker in (0, 1)]
    for index, (worker, step) in enumerate(pushes):
        store.push(step, worker)
        if snapshots and store.shard.between_steps:
            store.snapshot()
        found = gone_on(store, settings)
        if store.shard.between_steps:
            assert same(found, after(settings, pushes[: index + 1]))


def test_one_shard_that_clips_comes_back_to_the_bit(tmp_path: Path) -> None:
    settings = config(Consistency.BSP, maximum_gradient_norm=0.5)
    store = begun(tmp_path, settings)
    pushes = [(worker, step) for step in range(4) for worker in (0, 1)]
    for worker, step in pushes:
        store.push(step, worker)
    assert same(recover(tmp_path, settings), after(settings, pushes))
