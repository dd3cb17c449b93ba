"""The journal of one durable store: every change goes into its log before it is made, snapshots keep the log short.

    journal.append(Sealed.of(change))   # before it is made; raises, and then nothing has happened
    make(shard, change)
    journal.wait(journal.position)      # before anybody is told

`append`, `due`, `snapshot` and `rebase` are called by one thread at a time, the one that changes the shard.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.kinds import Change, intact
from headrace_parameters.core.record import Sealed, joined
from headrace_parameters.core.rows.state import Moment
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.files import storage_error, sync_folder
from headrace_parameters.journal.folders import remove_folder
from headrace_parameters.journal.log import Log, find_segments, remove_segments, segment_path, take_spare
from headrace_parameters.journal.numbered import Numbered
from headrace_parameters.journal.row_files import Chains, remove_rows, write_rows
from headrace_parameters.journal.snapshot_files import (
    KEPT,
    SnapshotFile,
    find_snapshots,
    remove_snapshots,
    write_snapshot,
)
from headrace_parameters.journal.tensor_files import Damaged

log = structlog.get_logger(__name__)


def _ignore(_: float) -> None:
    pass


@dataclass(frozen=True)
class Observers:
    """Who wants to know how long things take, in seconds."""

    force: Callable[[float], object] = field(default=_ignore)
    snapshot: Callable[[float], object] = field(default=_ignore)
    recovery: Callable[[float], object] = field(default=_ignore)


@dataclass(frozen=True)
class Limits:
    """How long the log of a store may grow before the next snapshot, in bytes and in changes.

    Below the size of a snapshot the bytes do not count: snapshots never make more to write than the log itself.
    """

    log_bytes: int
    log_pushes: int


class Journal:
    """The files of one store and epoch.

    Args:
        folder: Theirs alone; it is there.
        sequence: Number of the next change.
        tail: The segment to go on with.
        force: Makes what was written to an open file survive the machine.
        chains: The files that rows of tables are in.
        unsound: Names of snapshots that a recovery had to get around.
    """

    def __init__(
        self,
        folder: Path,
        config: StoreConfig,
        limits: Limits,
        observers: Observers,
        *,
        sequence: int = 0,
        tail: Path | None = None,
        force: Callable[[int], object] = os.fdatasync,
        chains: Chains = Chains(),  # noqa: B008 - it never changes
        unsound: Collection[str] = (),
    ) -> None:
        self._folder = folder
        self._chains, self._unsound = chains, unsound
        self._epoch = config.epoch
        self._name = str(config.name)
        self._limits = limits
        self._observers = observers
        self._sequence = sequence
        tail = tail or segment_path(folder, sequence)
        forced = config.durability.forced
        self._log = Log(tail, forced=forced, observe=observers.force, force=force)
        # Where the last snapshot was begun. After a recovery: as if just now, less what is in the log.
        self._base = (sequence, -tail.stat().st_size)
        self._writing: threading.Thread | None = None
        self._closing, self._closed = threading.Lock(), False
        snapshots = find_snapshots(folder)
        self._snapshot_bytes = snapshots[0].path.stat().st_size if snapshots else 0

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    @property
    def position(self) -> int:
        """Where the log ends; for `wait`."""
        return self._log.position

    @property
    def lag_bytes(self) -> int:
        """Bytes of the log that are not known to be on the disk."""
        return self._log.lag_bytes

    @property
    def log_bytes(self) -> int:
        """Bytes of all segments."""
        try:
            return sum(path.stat().st_size for _, path in find_segments(self._folder))
        except FileNotFoundError:
            return 0  # it is being removed

    def append(self, sealed: Sealed) -> None:
        """Write a change, or have it written soon: what it shares with others is read until `settle` or `wait`.

        Raises:
            StorageFull, DataLoss, Cancelled: It is not written; the log is as before.
        """
        self._log.append(Numbered(sealed, self._sequence, self._epoch))
        self._sequence += 1

    def wait(self, position: int) -> None:
        """Return when the log up to `position` has reached the store's level; StorageFull or DataLoss if it cannot."""
        self._log.wait(position)

    def settle(self) -> None:
        """Return when nothing is read any more of what was appended before."""
        self._log.settle()

    @property
    def due(self) -> bool:
        """Whether the log is long enough for a snapshot, and none is being written."""
        return self._has_grown(1)

    @property
    def overdue(self) -> bool:
        """Whether it is twice as long: a snapshot shall not wait for a moment between two steps any more."""
        return self._has_grown(2)

    def _has_grown(self, times: int) -> bool:
        sequence, position = self._base
        long = (
            self._log.position - position >= times * max(self._limits.log_bytes, self._snapshot_bytes)
            or self._sequence - sequence >= times * self._limits.log_pushes
        )
        return long and not (self._writing and self._writing.is_alive())

    @property
    def row_moments(self) -> Mapping[str, Moment]:
        """When the rows of tables were written last: the next state needs only those that may have changed since."""
        return self._chains.moments

    def snapshot(self, state: ShardState, waiting: Sequence[Change] = ()) -> None:
        """Write `state` in the background, which with those that are `waiting` holds every change so far; then remove what it makes superfluous."""
        records = joined(waiting, self._epoch)
        if not all(map(intact, waiting)):
            return  # a worker has taken one back that it lent: the log has it, and the store will end
        sequence, position = self._sequence, self._log.position
        self._base = sequence, position  # if it fails, the next try comes after as much again
        try:
            self._log.roll(take_spare(self._folder, sequence))
        except OSError as error:
            log.warning("snapshot_failed", store=self._name, error=str(error))
            return
        self._writing = threading.Thread(
            target=self._write, args=(sequence, position, state, records), name="snapshot", daemon=True
        )
        self._writing.start()

    def _write(self, sequence: int, position: int, state: ShardState, waiting: bytes) -> None:
        began = time.perf_counter()
        try:
            written = self._write_files(sequence, state, waiting)
            self._snapshot_bytes = written.path.stat().st_size
            self._prune()
        except OSError as error:  # the log is still whole; the next one may do better
            log.warning("snapshot_failed", store=self._name, error=str(error))
            return
        self._log.covered(position)
        self._observers.snapshot(time.perf_counter() - began)
        log.debug("snapshot_written", store=self._name, sequence=sequence, version=state.version)

    def _write_files(self, sequence: int, state: ShardState, waiting: bytes = b"") -> SnapshotFile:
        """Write a snapshot and the rows beside it; OSError if it cannot be, and then there is nothing of it."""
        former = self._chains
        try:
            self._chains = write_rows(self._folder, sequence, state.tables, former)
            return write_snapshot(self._folder, sequence, state, self._chains.heads, waiting)
        except Damaged as error:
            self._chains = Chains()  # the next snapshot has all rows, and needs none of these files
            raise OSError(errno.EIO, str(error)) from error
        except OSError:
            self._chains = former
            self._remove_rows()
            raise

    def _remove_rows(self) -> None:
        """Remove the files of rows that no snapshot needs."""
        # Those that the next snapshot goes on from are known: to be unable to read a file now, for whatever reason, costs none of them.
        needed = (each.row_files() for each in find_snapshots(self._folder))
        remove_rows(self._folder, self._chains.names.union(*needed))

    def _prune(self) -> None:
        """Keep the newest sound snapshots, and the log from the oldest of these on."""
        snapshots = find_snapshots(self._folder)
        kept = [each for each in snapshots if each.path.name not in self._unsound][:KEPT]
        remove_snapshots(each for each in snapshots if each not in kept)
        self._remove_rows()
        remove_segments(self._folder, before=kept[-1].sequence)

    def rebase(self, state: ShardState) -> None:
        """Let `state`, which no record has led to, be what the log goes on from.

        Raises:
            StorageFull, DataLoss: It cannot be written; the journal is as before.
        """
        self._finish_writing()
        # One number is left out, so that no older snapshot and log lead past this one.
        sequence = self._sequence + 1
        try:
            newest, self._snapshot_bytes = self._begin_anew(sequence, state)
        except OSError as error:
            raise storage_error(error, "the snapshot of the store") from error
        self._sequence = sequence
        self._base = sequence, self._log.position
        try:
            remove_snapshots(old for old in find_snapshots(self._folder) if old != newest)
            self._remove_rows()
            remove_segments(self._folder, before=sequence)
        except OSError as error:  # the log goes on from the new one already
            log.warning("former_files_not_removed", store=self._name, error=str(error))

    def _begin_anew(self, sequence: int, state: ShardState) -> tuple[SnapshotFile, int]:
        """Write a snapshot and go on with a log behind it; return it with its size. OSError if that cannot be: the journal is as before."""
        path = segment_path(self._folder, sequence)
        newest, former = None, self._chains
        try:
            path.touch(0o600)
            newest = self._write_files(sequence, state)
            size_bytes = newest.path.stat().st_size
            self._log.roll(path)
        except OSError:
            if newest:  # or a restart would begin with what was refused
                newest.path.unlink(missing_ok=True)
                self._chains = former
                self._remove_rows()
            path.unlink(missing_ok=True)
            raise
        return newest, size_bytes

    def move(self, folder: Path) -> None:
        """Give the folder its name, while nothing is being written: from now on a restart finds it. OSError: perhaps, until `destroy`."""
        self._folder.replace(folder)
        self._folder = folder
        self._log.moved(folder)
        sync_folder(folder.parent)

    def close(self) -> None:
        """Stop writing; the files stay for the next process. A second time does nothing: two may delete a store at once."""
        with self._closing:
            if not self._closed:
                self._finish_writing()
                self._log.close()
            self._closed = True

    def destroy(self) -> None:
        """Stop writing and remove the files."""
        self.close()
        remove_folder(self._folder)

    def _finish_writing(self) -> None:
        if self._writing:
            self._writing.join()
