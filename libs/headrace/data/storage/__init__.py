"""Where data lie: files of this machine and objects of a store, found by path or URL, and read by ranges of bytes.

A file is opened for each read, so nothing is held between reads; what was changed since it was found is refused.
"""

import io
from typing import Protocol


class File(Protocol):
    """Bytes that can be read by ranges."""

    @property
    def name(self) -> str:
        """The path or URL, for messages."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_near(self) -> bool:
        """Whether a read costs about as little as the bytes it brings: a local file, not a request over a network."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, all of them.

        Raises:
            DataChanged: The file is no longer the one that was found.
            DataUnreadable: It cannot be read.
            Unavailable: The store does not answer.
        """

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return several ranges; raises as `read` does."""


class FileStream(io.RawIOBase):
    """A `File` for libraries that expect one of Python's."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, and return the new position in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # typeshed wants any buffer
        """Fill `buffer` as far as the file goes, and return how many bytes that is."""
        end = min(self._position + len(buffer), self._file.size)
        if end <= self._position:
            return 0
        data = self._file.read(self._position, end)
        buffer[: len(data)] = data
        self._position = end
        return len(data)
