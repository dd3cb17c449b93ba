"""What is made from a model is kept on the disk, within bounds, and may be shared by processes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.errors import FailedPrecondition, StorageFull
from headrace_inference.cache import STALE_S, FileCache, temporary_folder


class Filling:
    """Writes entries of ten bytes, and counts them."""

    def __init__(self) -> None:
        self.filled = 0

    def __call__(self, folder: Path) -> None:
        self.filled += 1
        (folder / "data").write_bytes(b"0123456789")


@pytest.fixture
def fill() -> Filling:
    return Filling()


def use(cache: FileCache, key: str, fill: Callable[[Path], None], used_at: float | None = None) -> bytes:
    with cache.entry(key, fill) as folder:
        data = (folder / "data").read_bytes()
        if used_at is not None:
            os.utime(folder, (used_at, used_at))
        return data


def keys(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_entry_is_made_once(tmp_path: Path, fill: Filling) -> None:
    assert use(FileCache(tmp_path, 100), "a", fill) == b"0123456789"
    assert use(FileCache(tmp_path, 100), "a", fill) == b"0123456789"  # another start
    assert fill.filled == 1


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, fill: Filling) -> None:
    cache = FileCache(tmp_path, 25)
    use(cache, "a", fill, used_at=2)
    use(cache, "b", fill, used_at=1)
    use(cache, "c", fill)
    assert keys(tmp_path) == {"a", "c"}


def test_an_entry_that_is_open_stays_whatever_its_size(tmp_path: Path, fill: Filling) -> None:
    cache = FileCache(tmp_path, 0)
    with cache.entry("a", fill) as folder:
        use(FileCache(tmp_path, 0), "b", fill)  # of another process, as far as locks are concerned
        assert keys(tmp_path) == {"a"}
        assert (folder / "data").exists()
    assert keys(tmp_path) == set()


def test_an_entry_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_bytes(b"half")
        raise FailedPrecondition("it is no model")

    with pytest.raises(FailedPrecondition, match="it is no model"):
        use(FileCache(tmp_path, 100), "a", fail)
    assert keys(tmp_path) == set()


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFull, match=r"cannot write to the cache .*No space left"):
        use(FileCache(tmp_path, 100), "a", fail)


def test_of_two_who_make_an_entry_at_the_same_time_one_is_kept(tmp_path: Path, fill: Filling) -> None:
    cache = FileCache(tmp_path, 100)

    def fill_twice(folder: Path) -> None:
        use(FileCache(tmp_path, 100), "a", fill)  # another process is faster
        fill(folder)

    assert use(cache, "a", fill_twice) == b"0123456789"
    assert keys(tmp_path) == {"a"}


def test_what_a_killed_process_left_half_made_is_removed_later(tmp_path: Path) -> None:
    for name, age_s in (("old", 2 * STALE_S), ("new", 0.0)):
        part = tmp_path / f"{name}.part"
        part.mkdir()
        then = part.stat().st_mtime - age_s
        os.utime(part, (then, then))
    FileCache(tmp_path, 100)
    assert keys(tmp_path) == {"new.part"}


def test_what_a_killed_process_had_open_is_removed_at_the_next_start(tmp_path: Path, fill: Filling) -> None:
    use(FileCache(tmp_path, 100), "a", fill)
    FileCache(tmp_path, 0)
    assert keys(tmp_path) == set()


def test_the_temporary_folder_is_one_for_all_processes_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = temporary_folder()
    assert temporary_folder() == folder
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    temporary_folder().chmod(0o777)
    with pytest.raises(FailedPrecondition, match="is not this user's alone; remove it, or set CACHE_DIR"):
        temporary_folder()


def test_a_link_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = temporary_folder()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition, match="is not this user's alone"):
        temporary_folder()
