"""What a task prints, in a folder of files that cannot grow without bound: each is named after the place of its first byte.

00000000000000000000.log   the oldest; removed when there are too many bytes
00000000000001048576.log
"""

import io
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_SEGMENTS = 4  # files that are kept: the more, the less is lost when the oldest goes
_TAIL_BYTES = 8 << 10
CHUNK_BYTES = 64 << 10


class LogWriter:
    """Writes the log in `folder`, which exists: at most `max_bytes`, the newest."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = max_bytes // _SEGMENTS
        self._end = 0  # bytes that were printed
        self._paths: deque[Path] = deque()
        self._file: IO[bytes] = io.BytesIO()
        self._room = 0
        self._begin_segment(0)
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    def write(self, data: bytes) -> None:
        """Add `data`, at most `CHUNK_BYTES`.

        Raises:
            OSError: It could not be written, and is left out.
        """
        self._remember(data)
        place, self._end = self._end, self._end + len(data)
        if self._room < len(data):
            self._begin_segment(place)
        self._room -= len(data)
        try:
            self._file.write(data)
        except OSError:
            self._room = 0  # what comes after the gap begins a file of its own, so that it keeps its place
            raise

    def tail(self, lines: int) -> str:
        """Return the last `lines` lines that were written, from the last few kilobytes."""
        text = b"".join(self._tail)[-_TAIL_BYTES:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Write nothing any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin_segment(self, place: int) -> None:
        while len(self._paths) >= _SEGMENTS:
            self._paths.popleft().unlink(missing_ok=True)
        path = self._folder / f"{place:020d}.log"
        file = path.open("wb", buffering=0)
        self._file.close()
        self._file, self._room = file, self._segment_bytes
        self._paths.append(path)

    def _remember(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())


def read_log(folder: Path, offset: int) -> tuple[int, bytes]:
    """Return at most `CHUNK_BYTES` of a log from `offset` on, or from the oldest byte kept, with the place of the first.

    Empty: there is nothing from `offset` on, yet.
    """
    for begin, path in _segments(folder):
        try:
            with path.open("rb") as file:
                file.seek(max(0, offset - begin))
                data = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            continue  # its turn came to be removed
        if data:
            return max(offset, begin), data
    return offset, b""


def tail_offset(folder: Path, lines: int) -> int:
    """Return where the last `lines` lines of a log begin; 0 if it has no more."""
    newlines = lines
    whole = True  # nothing follows yet: the newline that ends the last line begins no other one
    for begin, path in reversed(_segments(folder)):
        data = _content(path)
        newlines += whole and data.endswith(b"\n")
        whole = whole and not data
        found = data.count(b"\n")
        if found >= newlines:
            return begin + len(data) - len(data.split(b"\n", found - newlines + 1)[-1])
        newlines -= found
    return 0


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # its turn came to be removed
        return b""


def _segments(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.stem), path) for path in folder.glob("*.log"))
