"""What a task prints, in a file that cannot grow without bound."""

from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

MAX_LOG_BYTES = 2 << 20
KEPT_LOGS = 100  # as many as the table remembers tasks
_TAIL_BYTES = 8 << 10


class BoundedLog:
    """A file of at most `max_bytes`: when half of that is written, it becomes `<path>.1` and a new one begins."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._half = max_bytes // 2
        self._file = path.open("wb")
        self._written = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def write(self, data: bytes) -> None:
        """Add `data`, at most half of `max_bytes`."""
        if self._written + len(data) > self._half:
            self._turn()
        self._file.write(data)
        self._file.flush()
        self._written += len(data)
        self._remember(data)

    def tail(self, lines: int) -> str:
        """Return the last `lines` lines that were written, from the last few kilobytes."""
        text = b"".join(self._tail)[-_TAIL_BYTES:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._path.open("wb")
        self._written = 0

    def _remember(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())


def drop_old_logs(folder: Path, kept: int = KEPT_LOGS) -> None:
    """Remove all but the newest `kept` files of `folder`."""
    logs = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in logs[: max(0, len(logs) - kept)]:
        path.unlink(missing_ok=True)
