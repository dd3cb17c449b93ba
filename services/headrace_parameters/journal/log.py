"""The log of a store: segments of records, each begun when a snapshot is taken, so that the ones before can be removed.

A segment is named after the sequence number of its first record. Positions count the bytes appended since the log was opened.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headrace_parameters.journal.files import storage_error, sync_folder, write_all

_NAME = re.compile(r"log-([0-9]{20})")
_SPARE = "spare-log"  # a segment that is not needed any more, to be written over
# From where on handing a record to the log's thread is worth it, by whether that thread forces it, and so must have it anyway.
_LARGE_BYTES = {False: 4 << 20, True: 1 << 18}


def segment_path(folder: Path, sequence: int) -> Path:
    """Name the segment whose first record has this number."""
    return folder / f"log-{sequence:020}"


def find_segments(folder: Path) -> list[tuple[int, Path]]:
    """List the segments of a store with the numbers of their first records, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def take_spare(folder: Path, sequence: int) -> Path:
    """Name the next segment, which is an old one if there is one to spare."""
    path = segment_path(folder, sequence)
    with suppress(FileNotFoundError):
        (folder / _SPARE).rename(path)
    return path


def remove_segments(folder: Path, before: int) -> None:
    """Remove the segments that begin before this number, but spare one."""
    for first, path in find_segments(folder):
        if first < before:
            path.replace(folder / _SPARE)


@dataclass(frozen=True)
class _Write:
    """A record to be written at an offset of the newest segment; `position` is where the log ends with it."""

    parts: Sequence[bytes | memoryview]
    offset: int
    position: int


class Log:
    """Appends to the newest segment. One call of `append` or `roll` at a time; `wait` from any thread.

    A segment may have been another one before: it is written over from its beginning, and what is left of the old one behind the end is
    recognized by its lower sequence numbers. That costs a fraction of what a file costs that grows, and cannot run out of room.

    Args:
        path: The segment to go on with, at its end; made if it is not there.
        forced: Whether what was written is forced to the disk (group commit: all that came while it was busy shares the next).
        observe: Called with the seconds of each such wait for the disk.
        force: Makes what was written to an open file survive the machine.
    """

    def __init__(
        self,
        path: Path,
        *,
        forced: bool,
        observe: Callable[[float], object],
        force: Callable[[int], object] = os.fdatasync,
    ) -> None:
        self._observe = observe
        self._force_file = force
        self._forced = forced
        self._file = _open(path)
        sync_folder(path.parent)
        self._end = self._length = os.fstat(self._file).st_size
        self._changed = threading.Condition()
        # All below is guarded by `_changed`.
        self._queue: list[_Write] = []
        self._appended = self._written = self._safe = 0
        self._retired: list[int] = []
        self._unsynced: Path | None = None  # a folder with a new name in it
        self._failure: OSError | None = None
        self._closing = False
        self._writing = threading.Thread(target=self._work, name="log", daemon=True)
        self._writing.start()

    @property
    def position(self) -> int:
        """Bytes appended in all."""
        return self._appended

    @property
    def lag_bytes(self) -> int:
        """Bytes that nobody has forced to the disk yet."""
        return self._appended - self._safe

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write one record, or have it written while the caller goes on: `wait` tells.

        Raises:
            StorageFull, DataLoss: It could not be written; the log is as it was.
        """
        self._check()
        size = sum(memoryview(part).nbytes for part in parts)
        if size < _LARGE_BYTES[self._forced] or self._end + size > self._length:
            self._append_now(parts, size)
        else:
            with self._changed:
                self._appended += size
                self._queue.append(_Write(parts, self._end, self._appended))
                self._changed.notify_all()
        self._end += size

    def _append_now(self, parts: Sequence[bytes | memoryview], size: int) -> None:
        """Write a record that another thread is not worth, or that makes the file longer: there may be no room for it."""
        try:
            self._drain()
            write_all(self._file, parts, self._end)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            self._length = self._end
            raise storage_error(error, "the change in the log") from error
        self._length = max(self._length, self._end + size)
        with self._changed:
            self._appended += size
            self._written = self._appended
            self._changed.notify_all()

    def roll(self, path: Path) -> None:
        """Begin the next segment, over what is in it; OSError if it cannot be, and the present one goes on."""
        self._drain()
        file = _open(path)
        os.ftruncate(self._file, self._end)  # nothing follows the last record of a segment that is complete
        with self._changed:
            if self._forced:
                self._retired.append(self._file)
                self._unsynced = path.parent
            else:
                os.close(self._file)
            self._file, self._end, self._length = file, 0, os.fstat(file).st_size

    def _drain(self) -> None:
        """Return when everything appended is written; OSError if it cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: self._written == self._appended or self._failure)
            if self._failure:
                raise OSError(self._failure.errno, self._failure.strerror)

    def wait(self, position: int) -> None:
        """Return when everything up to `position` is as safe as this log makes it.

        Raises:
            StorageFull, DataLoss: The disk did not take it; the log takes nothing more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reached >= position or self._failure)
            if self._reached < position:
                self._check()

    @property
    def _reached(self) -> int:
        return self._safe if self._forced else self._written

    def covered(self, position: int) -> None:
        """Take note that a snapshot on the disk has everything up to `position`."""
        with self._changed:
            self._safe = max(self._safe, position)
            self._changed.notify_all()

    def close(self) -> None:
        """Write and force what is left, and close the files."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writing.join()
        for file in (*self._retired, self._file):
            os.close(file)

    def _check(self) -> None:
        if self._failure:
            raise storage_error(
                self._failure, "the log, so the store is read-only until its process restarts"
            )

    def _work(self) -> None:
        """Write what is queued, and force it: the top of the log's own thread."""
        try:
            while self._has_work():
                self._write_queue()
                if self._forced:
                    self._force()
        except OSError as error:
            # What the kernel could not write it may have dropped: nobody can tell what is safe, so nothing more is taken.
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _has_work(self) -> bool:
        """Wait for some; False when the log is closed and there is none left."""

        def some() -> bool:
            return bool(self._queue) or (self._forced and self._written > self._safe)

        with self._changed:
            self._changed.wait_for(lambda: self._closing or some())
            return some()

    def _write_queue(self) -> None:
        with self._changed:
            queue, self._queue = self._queue, []
            file = self._file  # `roll` waits for all that is queued
        for write in queue:
            write_all(file, write.parts, write.offset)
            with self._changed:
                self._written = write.position
                self._changed.notify_all()

    def _force(self) -> None:
        with self._changed:
            position, retired, file = self._written, list(self._retired), self._file
            folder, self._unsynced = self._unsynced, None
        began = time.perf_counter()
        if folder:
            sync_folder(folder)
        for one in (*retired, file):
            self._force_file(one)
        self._observe(time.perf_counter() - began)
        for one in retired:
            os.close(one)
        with self._changed:
            self._retired = self._retired[len(retired) :]
            self._safe = max(self._safe, position)
            self._changed.notify_all()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
