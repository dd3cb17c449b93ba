"""Rows of a fixed number of bytes: where each lies is a multiplication, so that any can be read by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.data.columns import Array
from headrace.data.permutation import Int64s
from headrace.data.storage import File


@dataclass(frozen=True, slots=True)
class FixedRows:
    """Rows of one type and shape that follow each other in a file.

    `step_bytes` from the beginning of one row to that of the next; windows of text share a byte with their neighbours, so a row may
    be longer than that.
    """

    file: File
    offset: int
    rows: int
    step_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def range(self, start: int, end: int) -> Array:
        """Return the rows from `start` to `end`, at least one."""
        begin = self.offset + start * self.step_bytes
        data = self.file.read(begin, begin + (end - start - 1) * self.step_bytes + self.row_bytes)
        strides = (self.step_bytes, *np.empty(self.shape, self.dtype).strides)
        return np.ndarray((end - start, *self.shape), self.dtype, data, strides=strides)

    def take(self, rows: Int64s) -> Array:
        """Return rows in the order asked for."""
        starts = (self.offset + rows * self.step_bytes).tolist()
        row_bytes = self.row_bytes
        data = self.file.read_ranges([(start, start + row_bytes) for start in starts])
        return np.frombuffer(b"".join(data), self.dtype).reshape(len(rows), *self.shape)


class FixedBlocks:
    """Numbers of rows in one sequence through several files, and in blocks of about the same size."""

    def __init__(self, file_rows: Sequence[int], row_bytes: int, block_bytes: int) -> None:
        self._first_rows: Int64s = np.cumsum([0, *file_rows[:-1]])
        block = max(1, block_bytes // max(1, row_bytes))
        self._blocks = [
            (file, start, min(start + block, rows))
            for file, rows in enumerate(file_rows)
            for start in range(0, rows, block)
        ]
        self.rows: Int64s = np.array([end - start for _, start, end in self._blocks], np.int64)
        self.bytes = row_bytes * int(self.rows.max(initial=0))

    def __getitem__(self, block: int) -> tuple[int, int, int]:
        """Return file, first and last row + 1 of a block."""
        return self._blocks[block]

    def by_file(self, rows: Int64s) -> list[tuple[int, Int64s, Int64s]]:
        """Divide rows by the file they are in: its index, where they stand in `rows`, and their numbers in the file."""
        files = np.searchsorted(self._first_rows, rows, side="right") - 1
        return [
            (int(file), places := np.flatnonzero(files == file), rows[places] - self._first_rows[file])
            for file in np.unique(files)
        ]
