"""A part of the rows, so that one file can hold all splits. Which rows are its own is computed from their numbers.

Of every 997 rows that follow each other the same places are taken, chosen at random once and for all. So the part's k-th row is known without
looking at the others, and parts between other fractions have none of it. 997 is a prime: data that repeat after a round number of rows fall
into every part alike.
"""

import numpy as np

from headrace.data.columns import Array
from headrace.data.permutation import Int64s, Permutation
from headrace.data.rows import chosen
from headrace.data.sources import RowSource, Source
from headrace.errors import DataUnreadable
from headrace.program import Examples

_CYCLE = 997
_KEY = 997  # of the choice of places; a promise: another key would mix the parts of earlier runs


class BlockPart:
    """Rows of a source between two fractions, read by blocks."""

    def __init__(self, source: Source, begin: float, end: float) -> None:
        """Take the rows between the fractions `begin` < `end` of a shuffled order that never changes.

        Raises:
            DataUnreadable: There is none.
        """
        self._source = source
        ranks = Permutation(_CYCLE, _KEY)(np.arange(_CYCLE))
        self._places = np.flatnonzero((ranks >= round(begin * _CYCLE)) & (ranks < round(end * _CYCLE)))
        self._ends = np.cumsum(source.block_rows)
        self.block_rows: Int64s = np.diff(self._count(self._ends), prepend=0)
        self.block_bytes = source.block_bytes
        if not self.block_rows.sum():
            raise DataUnreadable(
                f"part({begin}, {end}) has none of {self._ends[-1]} rows; take a larger part, or more data"
            )

    def read(self, block: int) -> Examples:
        """Return the part's rows of a block; see `Source.read`."""
        return chosen(self._source.read(block), self._inside(block))

    def keys(self, block: int, column: str) -> Array:
        """Return a column of the part's rows of a block; see `Source.keys`."""
        return self._source.keys(block, column)[self._inside(block)]

    def rows(self, numbers: Int64s) -> Int64s:
        """Return which rows of the source the part's rows are."""
        return numbers // len(self._places) * _CYCLE + self._places[numbers % len(self._places)]

    def _count(self, ends: Int64s) -> Int64s:
        """Count the part's rows before each of the source's."""
        return ends // _CYCLE * len(self._places) + np.searchsorted(self._places, ends % _CYCLE)

    def _inside(self, block: int) -> Int64s:
        """Return the part's rows of a block, counted from the block's first row."""
        end, first = int(self._ends[block]), int(self._ends[block] - self._source.block_rows[block])
        before, after = self._count(np.array([first, end])).tolist()
        return self.rows(np.arange(before, after)) - first


class RowPart(BlockPart):
    """The same of a source whose rows can be read one by one."""

    def __init__(self, source: RowSource, begin: float, end: float) -> None:
        super().__init__(source, begin, end)
        self._by_row = source

    def take(self, rows: Int64s) -> Examples:
        """Return the part's rows by their numbers; see `RowSource.take`."""
        return self._by_row.take(self.rows(rows))


def part_of(source: Source, begin: float, end: float) -> Source:
    """Return a part of a source, all of it for 0 and 1; raises as `BlockPart` does."""
    if (begin, end) == (0, 1):
        return source
    return RowPart(source, begin, end) if isinstance(source, RowSource) else BlockPart(source, begin, end)
