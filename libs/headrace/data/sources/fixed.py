"""Rows of a fixed number of bytes: where each lies is a multiplication, so that any can be read by itself."""

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

    def range(self, start: int, end: int) -> Array:
        """Return the rows from `start` to `end`."""
        begin = self.offset + start * self.step_bytes
        data = self.file.read(begin, begin + self._bytes(end - start))
        return self._rows(data, end - start)

    def take(self, rows: Int64s) -> Array:
        """Return rows in the order asked for; neighbours are read together."""
        order = np.argsort(rows, kind="stable")
        runs = np.split(rows[order], np.flatnonzero(np.diff(rows[order]) != 1) + 1)
        starts = [self.offset + int(run[0]) * self.step_bytes for run in runs]
        ranges = [(start, start + self._bytes(len(run))) for start, run in zip(starts, runs, strict=True)]
        found = np.empty((len(rows), *self.shape), self.dtype)
        parts = zip(self.file.read_ranges(ranges), runs, strict=True)
        found[order] = np.concatenate([self._rows(data, len(run)) for data, run in parts])
        return found

    def _bytes(self, rows: int) -> int:
        """Count the bytes of so many neighbours."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))
        return (rows - 1) * self.step_bytes + row_bytes if rows else 0

    def _rows(self, data: bytes, rows: int) -> Array:
        row_bytes = self._bytes(1)
        strides = (self.step_bytes, *np.empty(self.shape, self.dtype).strides)
        if self.step_bytes == row_bytes:
            return np.frombuffer(data, self.dtype).reshape(rows, *self.shape)
        return np.ndarray((rows, *self.shape), self.dtype, data, strides=strides)


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
