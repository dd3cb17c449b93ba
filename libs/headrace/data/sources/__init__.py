"""What every format offers once it is open: rows in blocks."""

from typing import Protocol, runtime_checkable

from headrace.data.columns import Array
from headrace.data.permutation import Int64s
from headrace.program import Examples


class Source(Protocol):
    """Opened data. Rows are numbered from 0 through all blocks in their order; nothing but descriptions is kept in memory."""

    @property
    def block_rows(self) -> Int64s:
        """Rows of each block, shape (B,), B >= 1."""

    @property
    def block_bytes(self) -> int:
        """About how much memory the largest block takes."""

    def read(self, block: int) -> Examples:
        """Return the rows of a block.

        Raises:
            DataUnreadable, DataChanged, Unavailable: It cannot be read.
        """

    def keys(self, block: int, column: str) -> Array:
        """Return one column of a block, as it is in the data: integers or text.

        Raises:
            DataUnreadable: There is no such column, or it is neither.
        """


@runtime_checkable
class RowSource(Source, Protocol):
    """Opened data whose rows can be read one by one for little more than the bytes of each."""

    def take(self, rows: Int64s) -> Examples:
        """Return rows by their numbers, in the order asked for; raises as `read` does."""
