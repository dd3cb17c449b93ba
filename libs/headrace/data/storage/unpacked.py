"""What is compressed from end to end cannot be read by ranges: it is unpacked once, into a temporary file without a name."""

import contextlib
import gzip
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from headrace.data.storage import File, FileStream
from headrace.errors import DataUnreadable, StorageFull

_PIECE = 1 << 20  # bytes unpacked at a time


class UnpackedFile:
    """The content of a compressed file on this machine's disk, in its folder for temporary files; gone with this object."""

    is_near = True

    def __init__(self, name: str, packed: Callable[[], IO[bytes]]) -> None:
        """Unpack.

        Args:
            name: For messages.
            packed: Returns a stream of the content.
        Raises:
            DataUnreadable: It is damaged.
            StorageFull: The disk has no room for it.
        """
        self.name = name
        self._content = tempfile.TemporaryFile(prefix="headrace-data-")  # noqa: SIM115 - it lives as long as this object
        with _explained(name), packed() as stream:
            shutil.copyfileobj(stream, self._content, _PIECE)
            self._content.flush()
        self.size = os.fstat(self._content.fileno()).st_size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`; see `File.read`."""
        data = os.pread(self._content.fileno(), end - start, start)
        assert len(data) == end - start, "nobody else can reach this file"
        return data

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return several ranges; see `File.read`."""
        return [self.read(start, end) for start, end in ranges]


def plain(file: File) -> File:
    """Return the file itself, or its content if its name ends in .gz.

    Raises:
        DataUnreadable, DataChanged, Unavailable, StorageFull: It cannot be unpacked.
    """
    if not file.name.endswith(".gz"):
        return file

    def opened() -> IO[bytes]:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=io.BufferedReader(FileStream(file), _PIECE)))

    return UnpackedFile(file.name, opened)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataUnreadable(f"{name} is damaged: {error}; write it anew") from error
    except OSError as error:
        raise StorageFull(
            f"there is no room to unpack {name} in {tempfile.gettempdir()}: {error.strerror}; make room, or store the data in a form "
            "that can be read in part: Parquet, or without compression"
        ) from error
