"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import DataLoss, HeadraceError, StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TEMPORARY = ".new"


def storage_error(error: OSError, what: str) -> HeadraceError:
    """Say in the platform's terms why a file could not be written."""
    if error.errno in _NO_ROOM:
        return StorageFull(
            f"there is no room for {what} ({error.strerror}); nothing was applied: make room on the disk, then repeat"
        )
    return DataLoss(f"the disk does not take {what}: {error}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive the machine."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file survive the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; after the block `path` has that content, safely, or an error removed it."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(file: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """Write `parts` one after the other at `offset`."""
    left = [memoryview(part) for part in parts]
    while left:
        count = os.pwritev(file, left, offset)
        offset += count
        while left and count >= left[0].nbytes:
            count -= left.pop(0).nbytes
        if left:
            left[0] = left[0][count:]
