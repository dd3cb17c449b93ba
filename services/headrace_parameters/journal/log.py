"""The log of a store: segments of records, each begun when a snapshot is taken, so that the ones before can be removed.

A segment is named after the sequence number of its first record. Positions count the bytes appended since the log was opened.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace_parameters.journal.files import storage_error, sync_folder

_NAME = re.compile(r"log-([0-9]{20})")


def segment_path(folder: Path, sequence: int) -> Path:
    """Name the segment whose first record has this number."""
    return folder / f"log-{sequence:020}"


def find_segments(folder: Path) -> list[tuple[int, Path]]:
    """List the segments of a store with the numbers of their first records, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


class Log:
    """Appends to the newest segment. One call of `append` or `roll` at a time; `wait` from any thread.

    Args:
        path: The segment to go on with; made if it is not there.
        forced: Whether a thread forces what was appended to the disk (group commit: all that came while it was busy shares the next).
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
        self._size = os.fstat(self._file).st_size
        self._changed = threading.Condition()
        # All below is guarded by `_changed`.
        self._appended = self._safe = 0
        self._retired: list[int] = []
        self._failure: OSError | None = None
        self._closing = False
        self._forcing = threading.Thread(target=self._force, name="log-force", daemon=True)
        if forced:
            self._forcing.start()

    @property
    def position(self) -> int:
        """Bytes appended in all."""
        return self._appended

    @property
    def lag_bytes(self) -> int:
        """Bytes that nobody has forced to the disk yet."""
        return self._appended - self._safe

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write one record.

        Raises:
            StorageFull, DataLoss: It could not be written; the log is as it was.
        """
        self._check()
        try:
            written = _write_all(self._file, parts, self._size)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise storage_error(error, "the push in the log") from error
        self._size += written
        with self._changed:
            self._appended += written
            self._changed.notify_all()

    def roll(self, path: Path) -> None:
        """Begin the next segment; OSError if it cannot be made, and the present one goes on."""
        file = _open(path)
        with self._changed:
            if self._forced:
                self._retired.append(self._file)
            else:
                os.close(self._file)
            self._file, self._size = file, 0

    def wait(self, position: int) -> None:
        """Return when everything up to `position` is as safe as this log makes it.

        Raises:
            StorageFull, DataLoss: The disk did not take it; the log takes nothing more.
        """
        if not self._forced:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._safe >= position or self._failure)
            if self._safe < position:
                self._check()

    def covered(self, position: int) -> None:
        """Take note that a snapshot on the disk has everything up to `position`."""
        with self._changed:
            self._safe = max(self._safe, position)
            self._changed.notify_all()

    def close(self) -> None:
        """Force what is left and close the files."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._forced:
            self._forcing.join()
        for file in (*self._retired, self._file):
            os.close(file)

    def _check(self) -> None:
        if self._failure:
            raise storage_error(
                self._failure, "the log, so the store is read-only until its process restarts"
            )

    def _force(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._appended > self._safe)
                if self._appended == self._safe:
                    return
                position, retired, file = self._appended, self._retired, self._file
                self._retired = []
            began = time.perf_counter()
            try:
                for one in (*retired, file):
                    self._force_file(one)
            except OSError as error:
                # What the kernel could not write it may have dropped: nobody can tell what is safe, so nothing more is taken.
                with self._changed:
                    self._retired += retired
                    self._failure = error
                    self._changed.notify_all()
                return
            self._observe(time.perf_counter() - began)
            for one in retired:
                os.close(one)
            with self._changed:
                self._safe = max(self._safe, position)
                self._changed.notify_all()


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    sync_folder(path.parent)
    return file


def _write_all(file: int, parts: Sequence[bytes | memoryview], offset: int) -> int:
    """Write `parts` one after the other at `offset`; return how many bytes they are."""
    left = [memoryview(part) for part in parts]
    start = offset
    while left:
        count = os.pwritev(file, left, offset)
        offset += count
        while left and count >= left[0].nbytes:
            count -= left.pop(0).nbytes
        if left:
            left[0] = left[0][count:]
    return offset - start
