"""Files of this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import DataChanged, DataUnreadable


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was when it was found."""

    name: str
    size: int
    modified_ns: int
    is_near: bool = True

    @classmethod
    def found(cls, path: Path) -> "LocalFile":
        """Look at a file.

        Raises:
            DataUnreadable: There is none, or it may not be looked at.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise DataUnreadable(
                f"{path} cannot be read: {error.strerror}; every worker reads it by itself, so it must be there on each node"
            ) from error
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`; see `File.read`."""
        return self.read_ranges([(start, end)])[0]

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return several ranges; see `File.read`."""
        with self._opened() as descriptor:
            return [self._range(descriptor, start, end) for start, end in ranges]

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataChanged(
                f"{self.name} was there when the run began, and now it is not: {error.strerror}; "
                "leave the data of a run in place"
            ) from error
        try:
            self._check(os.fstat(descriptor))
            yield descriptor
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise DataChanged(
                f"{self.name} changed since the run began ({self.size} bytes then, {status.st_size} now); put new data into new "
                "files, and start the run again"
            )

    def _range(self, descriptor: int, start: int, end: int) -> bytes:
        data = b""
        while len(data) < end - start:
            try:
                part = os.pread(descriptor, end - start - len(data), start + len(data))
            except OSError as error:
                raise DataUnreadable(f"{self.name} cannot be read: {error.strerror}") from error
            if not part:
                raise DataChanged(f"{self.name} became shorter than {end} bytes while it was read")
            data = data + part if data else part
        return data
