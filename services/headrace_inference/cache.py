"""A folder of files made from models, kept from one start of the process to the next.

An entry is a folder under a key. Several processes may share one cache: an entry is made beside and moved into place
whole, and while a process has it open (a shared lock on the file `lock` in it) no other one removes it.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from headrace.errors import FailedPrecondition, StorageFull
from headrace.folder import make

_LOCK = "lock"
_PART = ".part"
STALE_S = 3600.0  # after which a half-made entry is one that a killed process left: making one takes seconds


class FileCache:
    """The entries of one folder, the least recently opened of which are removed.

    Args:
        folder: Where they lie; made when missing.
        max_bytes: Most bytes of the entries that nobody has open; 0 keeps none.
    Raises:
        FailedPrecondition: The folder cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        make(folder, "choose another folder with CACHE_DIR")
        self._folder = folder
        self._max_bytes = max_bytes
        self._sweep()
        self._shrink()  # of what killed processes had open, and of what an earlier start was allowed

    def _sweep(self) -> None:
        for path in self._folder.glob(f"*{_PART}"):
            if time.time() - _used(path) > STALE_S:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def entry(self, key: str, fill: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the folder of an entry, which stays as long as the context.

        Args:
            key: A file name that says all that the content depends on.
            fill: Writes the content into an empty folder, where there is none yet.
        Raises:
            StorageFull: There is no room on the disk.
        """
        folder = self._folder / key
        lock = self._open(folder, fill)
        try:
            with lock:
                os.utime(folder)
                yield folder
        finally:
            self._shrink()

    def _open(self, folder: Path, fill: Callable[[Path], None]) -> BinaryIO:
        while (lock := _locked(folder, fcntl.LOCK_SH)) is None:
            self._fill(folder, fill)
        return lock

    def _fill(self, folder: Path, fill: Callable[[Path], None]) -> None:
        part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_PART}")
        part.mkdir(mode=0o700)
        try:
            fill(part)
            (part / _LOCK).touch()
            for path in part.iterdir():
                _sync(path)
            if not folder.exists():
                part.rename(folder)
        except OSError as error:
            if not folder.exists():  # else another process was faster, and its entry is as good
                raise StorageFull(f"cannot write to the cache {self._folder}: {error.strerror}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _shrink(self) -> None:
        entries = sorted(self._entries(), key=_used)
        excess = sum(map(_size, entries)) - self._max_bytes
        for entry in entries:
            if excess <= 0:
                return
            size = _size(entry)
            if _removed(entry):
                excess -= size

    def _entries(self) -> Iterator[Path]:
        for path in self._folder.iterdir():
            if path.is_dir() and path.suffix != _PART:
                yield path


def temporary_folder() -> Path:
    """Return a folder for a cache that keeps nothing, below the system's temporary one: all processes of a user share it.

    So what a killed process leaves is removed by the next one, which finds nobody who has it open.

    Raises:
        FailedPrecondition: Somebody else made it, or may write into it.
    """
    folder = Path(tempfile.gettempdir()) / f"headrace-inference-{os.getuid()}"
    make(folder, "set CACHE_DIR")
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IWOTH:
        raise FailedPrecondition(f"{folder} is not this user's alone; remove it, or set CACHE_DIR")
    folder.chmod(stat.S_IRWXU)
    return folder


def _locked(folder: Path, kind: int) -> BinaryIO | None:
    """Lock an entry; None if there is none, or it cannot be had without waiting."""
    try:
        lock = (folder / _LOCK).open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody removes it just now
    lock.close()
    return None


def _removed(folder: Path) -> bool:
    lock = _locked(folder, fcntl.LOCK_EX)
    if lock is None:
        return False
    with lock:
        gone = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_PART}")
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0
