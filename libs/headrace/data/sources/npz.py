"""Archives of numpy's `savez`: a column is an array of the archive. Without compression every row can be read by itself.

Arrays of objects would need pickle, and are refused.
"""

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np

from headrace.data.columns import Array, Columns
from headrace.data.permutation import Int64s
from headrace.data.sources.fixed import FixedBlocks, FixedRows
from headrace.data.sources.lines import BLOCK_BYTES
from headrace.data.storage import File, FileStream
from headrace.data.storage.unpacked import UnpackedFile
from headrace.errors import DataUnreadable
from headrace.program import Examples

_LOCAL_HEADER = struct.Struct(
    "<4s22xHH"
)  # of a member in a zip file: signature, length of its name and of its extra field
_READ_AHEAD = 1 << 16  # bytes: the directory of an archive and the header of an array fit


class RangedNpzSource:
    """Arrays of `.npz` files anywhere, rows along their first axis, read in stretches."""

    def __init__(self, files: Sequence[File], columns: Columns, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._files, self._columns = files, columns
        self._arrays = [_arrays(file, columns) for file in files]
        _check_alike(self._arrays)
        rows = [next(iter(arrays.values())).rows for arrays in self._arrays]
        row_bytes = max(sum(array.step_bytes for array in arrays.values()) for arrays in self._arrays)
        self._blocks = FixedBlocks(rows, row_bytes, block_bytes)
        self.block_rows, self.block_bytes = self._blocks.rows, self._blocks.bytes

    def read(self, block: int) -> Examples:
        """Return a stretch of rows; see `Source.read`."""
        file, start, end = self._blocks[block]
        return self._columns.examples(
            {name: self._arrays[file][name].range(start, end) for name in self._columns.names}
        )

    def keys(self, block: int, column: str) -> Array:
        """Return a stretch of an array; see `Source.keys`."""
        file, start, end = self._blocks[block]
        found = (
            self._arrays[file].get(column)
            or _arrays(self._files[file], Columns({column: column}, column))[column]
        )
        self._arrays[file][column] = found
        return found.range(start, end)


class NpzSource(RangedNpzSource):
    """The same on this machine, where any row can be read by itself."""

    def take(self, rows: Int64s) -> Examples:
        """Return rows by their numbers; see `RowSource.take`."""
        arrays: dict[str, Array] = {}
        for file, places, inside in self._blocks.by_file(rows):
            for name in self._columns.names:
                part = self._arrays[file][name].take(inside)
                arrays.setdefault(name, np.empty((len(rows), *part.shape[1:]), part.dtype))[places] = part
        return self._columns.examples(arrays)


def _check_alike(files: Sequence[Mapping[str, FixedRows]]) -> None:
    """Refuse files whose arrays differ in more than their number of rows."""
    for name, first in files[0].items():
        for other in (arrays[name] for arrays in files[1:]):
            if (other.dtype, other.shape) != (first.dtype, first.shape):
                raise DataUnreadable(
                    f"{name!r} is {first.dtype} of shape {first.shape} per row in {first.file.name} and {other.dtype} of "
                    f"{other.shape} in {other.file.name}; write all files alike"
                )


def _arrays(file: File, columns: Columns) -> dict[str, FixedRows]:
    with _explained(file):
        stream = io.BufferedReader(FileStream(file), _READ_AHEAD)
        with zipfile.ZipFile(stream) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            columns.check(list(members), file.name)
            found = {name: _array(file, archive, members[name]) for name in columns.names}
    rows = {name: array.rows for name, array in found.items()}
    if len(set(rows.values())) > 1 or not min(rows.values()):
        raise DataUnreadable(f"{file.name} has arrays of {rows} rows; each needs as many, at least 1")
    return found


def _array(file: File, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> FixedRows:
    """Find where the rows of a member begin, after unpacking it if it is compressed."""
    if member.compress_type == zipfile.ZIP_STORED:
        start = member.header_offset
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(
            file.read(start, start + _LOCAL_HEADER.size)
        )
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("a member has no header")
        content, offset = file, start + _LOCAL_HEADER.size + name_bytes + extra_bytes
    else:

        def packed() -> IO[bytes]:
            return archive.open(member)

        content, offset = UnpackedFile(f"{file.name}: {member.filename}", packed), 0
    return _described(content, offset, member)


def _described(content: File, offset: int, member: zipfile.ZipInfo) -> FixedRows:
    head = io.BytesIO(content.read(offset, min(offset + _READ_AHEAD, content.size)))
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(head)
    if dtype.hasobject or not shape or (by_columns and len(shape) > 1):
        kind = "objects" if dtype.hasobject else "a single value" if not shape else "columns, not rows"
        raise DataUnreadable(
            f"{content.name}: {member.filename} is an array of {kind}; save numbers with rows as the first axis, in C order"
        )
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return FixedRows(content, offset + head.tell(), shape[0], row_bytes, tuple(shape[1:]), dtype)


@contextmanager
def _explained(file: File) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, struct.error, ValueError) as error:
        raise DataUnreadable(
            f"{file.name} is no good .npz file: {error}; write it with numpy.savez"
        ) from error
