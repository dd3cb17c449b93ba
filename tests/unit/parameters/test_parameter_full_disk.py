"""What a durable store does when there is no room left for its files."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import DataLoss, StorageFull
from headrace_parameters.core.config import Durability
from headrace_parameters.journal.files import storage_error
from headrace_parameters.journal.recovery import recover
from tests.unit.parameters.journal_files import JournaledShard, config, model, push_of, same


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to make a file longer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
def test_a_push_there_is_no_room_for_leaves_the_log_as_it_was(tmp_path: Path, durability: Durability) -> None:
    settings = config(durability=durability)
    store = JournaledShard(tmp_path, settings)
    store.initialize()
    store.push(0)
    length = store.segments()[-1].stat().st_size
    for room in (length, length + 10):
        with largest_file(room), pytest.raises(StorageFull, match="nothing was applied"):
            store.push(1)
        assert store.segments()[-1].stat().st_size == length
        shutil.copytree(tmp_path, copy := tmp_path / f"copy-{room}")
        assert same(recover(copy, settings), model(settings, 1, lambda step: [push_of(step)]))
    store.push(1)
    assert same(recover(tmp_path, settings), model(settings, 2, lambda step: [push_of(step)]))


def test_a_restore_there_is_no_room_for_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config())
    store.initialize()
    saved = store.shard.state()
    store.push(0)
    with largest_file(200), pytest.raises(StorageFull):
        store.journal.rebase(saved)
    store.push(1)
    assert same(recover(tmp_path, config()), model(config(), 2, lambda step: [push_of(step)]))


def test_a_restore_whose_log_cannot_begin_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """Its snapshot is complete by then: a restart must not take it for the store."""
    broken = False

    def force(_: int) -> None:
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    settings = config(durability=Durability.DISK)
    store = JournaledShard(tmp_path, settings, force=force)
    store.initialize()
    saved = store.shard.state()
    store.push(0)
    broken = True
    with pytest.raises(DataLoss):
        store.push(1)  # which may be in the log, as far as anybody knows
    with pytest.raises(DataLoss):
        store.journal.rebase(saved)
    assert same(recover(tmp_path, settings), model(settings, 2, lambda step: [push_of(step)]))


def test_a_restore_is_done_though_what_it_makes_superfluous_cannot_be_removed(tmp_path: Path) -> None:
    store = JournaledShard(tmp_path, config())
    store.initialize()
    saved = store.shard.state()
    for step in range(3):
        store.push(step)
    in_the_way = tmp_path / "spare-log"  # where a segment goes that is not needed any more
    in_the_way.unlink()
    in_the_way.mkdir()
    store.journal.rebase(saved)
    store.shard.restore(saved)
    store.push(0)
    store.restart()
    assert same(recover(tmp_path, config()), model(config(), 1, lambda step: [push_of(step)]))


def test_only_a_lack_of_room_is_called_so() -> None:
    assert isinstance(storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "x"), StorageFull)
    assert isinstance(storage_error(OSError(errno.EIO, os.strerror(errno.EIO)), "x"), DataLoss)
