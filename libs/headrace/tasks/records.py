"""What a node keeps of its tasks, also of those that have ended, and through restarts: a folder each, bounded in number and size.

records/{project}/{task}/{epoch}/*.log          what it printed, see `log`
records/{project}/{task}/{epoch}/metrics.json   what it measured, see `history`
    records/{project}/{task}/{epoch}/stacks.txt     where it was when somebody asked, see `stacks`
    records/{project}/{task}/{epoch}/*.profile.*    steps that were recorded, see `profiles`
"""

import os
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import NotFound
from headrace.names import TaskName

RECORD = "record"  # key of a task's context: its folder here
MAX_LOG_BYTES = 4 << 20
KEPT_TASKS = 200  # twice as many as the table remembers: who looks for a failure may come late


@dataclass(frozen=True)
class Kept:
    """How much is kept."""

    log_bytes: int = MAX_LOG_BYTES  # of one task; the newest
    tasks: int = KEPT_TASKS  # of those that have ended; the newest


class Records:
    """The folders of all tasks of a node. All methods may be called from any thread."""

    def __init__(self, folder: Path, kept: Kept | None = None) -> None:
        """Make the folder."""
        self.kept = kept or Kept()
        self._folder = folder
        self._lock = threading.Lock()
        self._open: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, name: TaskName, epoch: int) -> Path:
        """Return an empty folder for a task that begins; that of the task that ended first may go for it.

        Raises:
            OSError: There is no room for one.
        """
        with self._lock:
            self._drop_oldest()
            folder = self._folder / name.project / name.task / str(epoch)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._open.add(folder)
            return folder

    def end(self, folder: Path) -> None:
        """Take note that the task of a folder has ended."""
        with self._lock, suppress(OSError):
            self._open.discard(folder)
            os.utime(folder)

    def find(self, name: TaskName, epoch: int) -> Path:
        """Return the folder of a task.

        Args:
            epoch: 0 means the latest there is.
        Raises:
            NotFound: Nothing is kept of it.
        """
        attempts = self._folder / name.project / name.task
        with self._lock:
            known = sorted((int(path.name) for path in attempts.glob("*")), reverse=True)
        for found in known:
            if epoch in (0, found):
                return attempts / str(found)
        attempt = f" in epoch {epoch}" if epoch else ""
        raise NotFound(
            f"this node keeps nothing of {name}{attempt}; it ran elsewhere, or too long ago", field="name"
        )

    def _drop_oldest(self) -> None:
        ended = [folder for folder in self._folder.glob("*/*/*") if folder not in self._open]
        ended.sort(key=lambda folder: folder.stat().st_mtime_ns)
        for folder in ended[: max(0, len(ended) - self.kept.tasks)]:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # other attempts of the task are still there
                folder.parent.rmdir()
                folder.parent.parent.rmdir()
