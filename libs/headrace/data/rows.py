"""A split of the data, open: in memory or streamed, its rows are read by number or one batch after the other."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from headrace.data.assignment import Assignment
from headrace.data.columns import Array
from headrace.data.permutation import Int64s
from headrace.data.sources import RowSource, Source
from headrace.errors import DataUnreadable
from headrace.program import Examples

Prepare = Callable[[Examples], Examples]


class Rows(Protocol):
    """An open split."""

    def __len__(self) -> int:
        """Return the number of rows, at least 1."""

    def take(self, rows: Int64s) -> Examples:
        """Return rows by their numbers, in the order asked for; at least one."""

    def batches(self, size: int) -> Iterator[Examples]:
        """Yield all rows in their order, at most `size` at a time."""

    def sample(self, count: int) -> Examples:
        """Return rows from all over the data, at least `count` if there are so many; always the same ones."""


class ArrayRows:
    """A split that a program holds in memory."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, rows: Int64s) -> Examples:
        """Copy rows by their numbers."""
        return chosen(self.examples, rows)

    def batches(self, size: int) -> Iterator[Examples]:
        """Yield all rows in their order, at most `size` at a time."""
        return cut(self.examples, size)

    def sample(self, count: int) -> Examples:  # noqa: ARG002 - more cost nothing: they are in memory
        """Return all rows."""
        return self.examples


class StreamedRows:
    """A split that lies elsewhere. Of data that come in blocks, as many as `kept_blocks` stay in memory: those used last."""

    def __init__(
        self,
        source: Source,
        prepare: Sequence[Prepare],
        assignment: Callable[[int, int], Assignment],
        kept_blocks: int,
    ) -> None:
        """Read from `source`.

        Args:
            prepare: Functions that each batch goes through, the first one first.
            assignment: Returns who takes which rows when, for a batch size and a seed.
        """
        self._source, self._prepare, self.assignment = source, prepare, assignment
        self._ends = np.cumsum(source.block_rows)
        self._kept: OrderedDict[int, Examples] = OrderedDict()
        self._kept_blocks = kept_blocks
        self._by_row = source if isinstance(source, RowSource) else None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: Int64s) -> Examples:
        """Read rows by their numbers, in the order asked for; at least one."""
        if self._by_row is not None:
            return self._prepared(self._by_row.take(rows))
        order = np.argsort(rows)  # by blocks, then
        by_block = rows[order]
        blocks = np.searchsorted(self._ends, by_block, side="right")
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        parts = [
            self._part(block, part)
            for block, part in zip(blocks[starts].tolist(), np.split(by_block, starts[1:]), strict=True)
        ]
        return self._prepared(chosen(joined(parts), np.argsort(order)))

    def batches(self, size: int) -> Iterator[Examples]:
        """Read all rows in their order, at most `size` at a time."""
        for block in range(len(self._ends)):
            for batch in cut(self._source.read(block), size):
                yield self._prepared(batch)

    def sample(self, count: int) -> Examples:
        """Read `count` rows, or all if there are fewer, from as many places of the data as a shuffled batch has; always the same."""
        return self.take(self.assignment(min(count, len(self)), 0).share(0, 0, 1))

    @property
    def kept_bytes(self) -> int:
        """Bytes of the blocks in memory."""
        return sum(
            array.nbytes for each in self._kept.values() for array in (*each.inputs.values(), each.targets)
        )

    def _part(self, block: int, rows: Int64s) -> Examples:
        first = int(self._ends[block]) - int(self._source.block_rows[block])
        return chosen(self._block(block), rows - first)

    def _block(self, block: int) -> Examples:
        if block in self._kept:
            self._kept.move_to_end(block)
            return self._kept[block]
        while (
            len(self._kept) >= self._kept_blocks
        ):  # before the next one comes, so that there is never one more
            self._kept.popitem(last=False)
        self._kept[block] = self._source.read(block)
        return self._kept[block]

    def _prepared(self, batch: Examples) -> Examples:
        count = len(batch)
        for function in self._prepare:
            batch = function(batch)
        _check(batch, count)
        return batch


def chosen(examples: Examples, rows: Int64s) -> Examples:
    """Copy rows of arrays."""
    return Examples(
        {name: array[rows] for name, array in examples.inputs.items()},
        examples.targets[rows],
    )


def cut(examples: Examples, size: int) -> Iterator[Examples]:
    """Yield views of at most `size` rows that follow each other."""
    for start in range(0, len(examples), size):
        yield Examples(
            {name: array[start : start + size] for name, array in examples.inputs.items()},
            examples.targets[start : start + size],
        )


def divided(examples: Examples, parts: int) -> Iterator[Examples]:
    """Yield views of `parts` equal parts, but for one row; of fewer rows than that as many as there are rows."""
    bounds = np.linspace(0, len(examples), min(parts, len(examples)) + 1).round().astype(int)
    for start, end in pairwise(bounds.tolist()):
        yield Examples(
            {name: array[start:end] for name, array in examples.inputs.items()}, examples.targets[start:end]
        )


def joined(parts: Sequence[Examples]) -> Examples:
    """Put examples one after the other.

    Raises:
        DataUnreadable: They are not alike.
    """
    if len(parts) == 1:
        return parts[0]
    return Examples(
        {name: _joined(name, [part.inputs[name] for part in parts]) for name in parts[0].inputs},
        _joined("targets", [part.targets for part in parts]),
    )


def _joined(name: str, arrays: Sequence[Array]) -> Array:
    kinds = sorted({f"{array.dtype} of shape {array.shape[1:]}" for array in arrays})
    if len(kinds) > 1:
        raise DataUnreadable(
            f"{name!r} is {' in one part of the data and '.join(kinds[:2])} per row in another; write all rows alike"
        )
    return np.concatenate(arrays)


def _check(batch: Examples, count: int) -> None:
    """Check what a user's functions made of a batch, or what the data were without any."""
    if not isinstance(batch, Examples):
        raise DataUnreadable(
            f"a function given to map() returned a {type(batch).__name__}; return headrace.program.Examples"
        )
    for name, array in {**batch.inputs, "targets": batch.targets}.items():
        if len(array) != count:
            raise DataUnreadable(
                f"a function given to map() made {len(array)} of {name!r} from {count} rows; return as many"
            )
        if array.dtype.kind not in "fiub":
            raise DataUnreadable(
                f"{name!r} is text or bytes ({array.dtype}); turn it into numbers with map()"
            )
