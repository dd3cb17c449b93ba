"""The log of a store: segments of records, each begun when a snapshot is taken, so that the ones before can be removed.

A segment is named after the sequence number of its first record. Positions count the bytes appended since the log was opened.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import Cancelled
from headrace_parameters.journal.files import storage_error, sync_folder
from headrace_parameters.journal.numbered import Numbered

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

    record: Numbered
    offset: int
    position: int


class Log:
    """Appends to the newest segment. One call of `append` or `roll` at a time; `settle` and `wait` from any thread.

    Records are written one after the other by whoever comes first: the log's own thread, which is woken for large ones, or one that waits for them.

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
        self._writer = threading.Lock()  # of whoever writes what is queued; taken before the next one
        lock = threading.Lock()
        self._changed, self._to_do = threading.Condition(lock), threading.Condition(lock)
        # All below is guarded by `lock`.
        self._queue: list[_Write] = []
        self._appended = self._written = self._safe = 0
        self._retired: list[int] = []
        self._unsynced: Path | None = None  # a folder with a new name in it
        self._failure: OSError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """Bytes appended in all."""
        return self._appended

    @property
    def lag_bytes(self) -> int:
        """Bytes that nobody has forced to the disk yet."""
        return self._appended - self._safe

    def append(self, record: Numbered) -> None:
        """Have a record written while the caller goes on: `wait` tells. One that there may be no room for is written at once.

        Raises:
            StorageFull, DataLoss: It could not be written; the log is as it was.
            Cancelled: It was not intact; the log is as it was.
        """
        self._check()
        if self._end + record.size_bytes > self._length:
            self._append_now(record)
        else:
            with self._changed:
                self._appended += record.size_bytes
                self._queue.append(_Write(record, self._end, self._appended))
                if record.size_bytes >= _LARGE_BYTES[self._forced]:
                    self._to_do.notify()
        self._end += record.size_bytes

    def _append_now(self, record: Numbered) -> None:
        """Write a record that makes the file longer."""
        try:
            self._drain()
            intact = record.write(self._file, self._end)
        except OSError as error:
            self._cut()
            raise storage_error(error, "the change in the log") from error
        if not intact:
            self._cut()
            raise Cancelled("a worker took a gradient back while it was written; nothing was applied")
        self._length = max(self._length, self._end + record.size_bytes)
        with self._changed:
            self._appended += record.size_bytes
            self._written = self._appended
            self._to_do.notify()
            self._changed.notify_all()

    def _cut(self) -> None:
        """Take back what was begun to be written behind the end."""
        os.ftruncate(self._file, self._end)
        self._length = self._end

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

    def moved(self, folder: Path) -> None:
        """Take note that the segments are in this folder now; to be called when all that was appended is safe."""
        with self._changed:
            if self._unsynced:
                self._unsynced = folder

    def _drain(self) -> None:
        """Return when everything appended is written; OSError if it cannot be."""
        self.settle()
        if self._failure:
            raise OSError(self._failure.errno, self._failure.strerror)

    def settle(self) -> None:
        """Return when no record that was appended before is read any more: all are written, or never will be."""
        with self._writer:
            with self._changed:
                queue, self._queue = self._queue, []
                file = self._file  # `roll` settles first
            try:
                for write in queue:
                    self._write_one(file, write)
            except OSError as error:
                self._fail(error)

    def _write_one(self, file: int, write: _Write) -> None:
        if self._failure:
            return  # nothing follows what may be half there
        if not write.record.write(file, write.offset):
            raise OSError(errno.ESTALE, "a worker wrote to a gradient that was being written")
        with self._changed:
            self._written = write.position
            self._to_do.notify()
            self._changed.notify_all()

    def _fail(self, error: OSError) -> None:
        """Take nothing more: what the kernel could not write it may have dropped, and nobody can tell what is safe."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def wait(self, position: int) -> None:
        """Return when everything up to `position` is as safe as this log makes it.

        Raises:
            StorageFull, DataLoss: The disk did not take it; the log takes nothing more.
        """
        if self._written < position:
            self.settle()
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
        """Write and force what is left, and close the files; nothing is appended any more."""
        self.settle()  # first: whoever waits may be writing, to a number that could mean another file once this one is closed
        with self._changed:
            self._closing = True
            self._to_do.notify()
        self._thread.join()
        for file in (*self._retired, self._file):
            os.close(file)

    def _check(self) -> None:
        if self._failure:
            raise storage_error(
                self._failure, "the log, so the store is read-only until its process restarts"
            )

    def _work(self) -> None:
        """Write what is large, and force what is written: the top of the log's own thread."""
        try:
            while self._has_work():
                self.settle()
                if self._forced and not self._failure:
                    self._force()
        except OSError as error:
            self._fail(error)

    def _has_work(self) -> bool:
        """Wait for some; False when the log is closed and there is none left, or it has failed."""

        def some() -> bool:
            return bool(self._queue) or (self._forced and self._written > self._safe)

        with self._changed:
            self._to_do.wait_for(lambda: self._closing or some())
            return some() and not self._failure

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
