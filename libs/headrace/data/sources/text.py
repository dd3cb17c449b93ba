"""Text for language models: windows of bytes, and as targets the bytes one further."""

from collections.abc import Sequence

import numpy as np

from headrace.data.columns import Array
from headrace.data.permutation import Int64s
from headrace.data.sources.fixed import FixedBlocks, FixedRows
from headrace.data.sources.lines import BLOCK_BYTES
from headrace.data.storage import File
from headrace.data.storage.unpacked import plain
from headrace.errors import DataUnreadable
from headrace.program import Examples


class RangedTextSource:
    """Windows of `context` bytes of text anywhere, read in stretches.

    They follow each other without overlap; what is left at the end of a file is no window.
    """

    def __init__(
        self, files: Sequence[File], *, name: str, context: int, block_bytes: int = BLOCK_BYTES
    ) -> None:
        """Divide files.

        Args:
            name: Of the input.
            context: Bytes of a window, >= 1.
        """
        self._name = name
        contents = [file for file in map(plain, files) if file.size > context]
        if not contents:
            raise DataUnreadable(
                f"{files[0].name} and the other files are shorter than {context + 1} bytes; take a smaller context"
            )
        self._windows = [
            FixedRows(file, 0, (file.size - 1) // context, context, (context + 1,), np.dtype(np.uint8))
            for file in contents
        ]
        self._blocks = FixedBlocks([each.rows for each in self._windows], context, block_bytes)
        self.block_rows = self._blocks.rows
        self.block_bytes = 16 * self._blocks.bytes  # inputs and targets of 8 bytes for each

    def read(self, block: int) -> Examples:
        """Return a stretch of windows; see `Source.read`."""
        file, start, end = self._blocks[block]
        return self._examples(self._windows[file].range(start, end))

    def keys(self, block: int, column: str) -> Array:  # noqa: ARG002 - no block has any
        """Refuse: see `Source.keys`."""
        raise DataUnreadable(f"text has no columns, so there is none called {column!r} to partition by")

    def _examples(self, windows: Array) -> Examples:
        codes = windows.astype(np.int64)
        return Examples({self._name: codes[:, :-1]}, codes[:, 1:])


class TextSource(RangedTextSource):
    """The same on this machine, where any window can be read by itself."""

    def take(self, rows: Int64s) -> Examples:
        """Return windows by their numbers; see `RowSource.take`."""
        found = np.empty((len(rows), *self._windows[0].shape), np.uint8)
        for file, places, inside in self._blocks.by_file(rows):
            found[places] = self._windows[file].take(inside)
        return self._examples(found)
