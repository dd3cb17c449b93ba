"""Where a split of the data lies and how it is read: a description, opened by the process that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from headrace.data.assignment import Assignment, Replicated, Sharded
from headrace.data.columns import checked_keys
from headrace.data.part import part_of
from headrace.data.partition import Partitioned
from headrace.data.rows import ArrayRows, Prepare, Rows, StreamedRows
from headrace.data.shuffle import LaneShuffle, Shuffle, lanes_within, shuffled_rows
from headrace.data.sources import RowSource, Source
from headrace.program import Examples

SHUFFLE_BYTES = 256 << 20
# Beside one block per lane: the one whose lane has just gone on, and the one that two lanes share where they meet.
_SPARE_BLOCKS = 2


class Format(Protocol):
    """How data are stored."""

    def open(self, storage: Mapping[str, str]) -> Source:
        """Find and describe the data; `storage` are options of object stores."""


@dataclass(frozen=True)
class Dataset:
    """Data that are streamed, never wholly in memory. `Program.data` may return one in place of `Examples`.

    Made by `headrace.data.parquet`, `csv`, `jsonl`, `npz`, `images` and `text`. Each method returns another description; nothing is
    read before `open`.
    """

    format: Format
    storage: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[Prepare, ...] = ()
    assigned: Literal["sharded", "replicated", "partitioned"] = "sharded"
    key: str = ""  # the column that "partitioned" goes by
    shuffle_bytes: int = SHUFFLE_BYTES
    between: tuple[float, float] = (0, 1)  # the fractions of the rows that are taken

    def part(self, begin: float, end: float) -> Dataset:
        """Take the rows between two fractions of a shuffled order that never changes: `part(0, 0.8)` to train, `part(0.8, 1)` to test."""
        if not 0 <= begin < end <= 1:
            raise ValueError(
                f"part({begin}, {end}) is none; give two fractions from 0 to 1, the smaller one first"
            )
        return replace(self, between=(begin, end))

    def map(self, function: Callable[[Examples], Examples]) -> Dataset:
        """Let each batch go through `function`, which returns as many examples as it is given, the same for the same.

        It runs in a thread beside the training: the place to tokenize, to decode, to normalize.
        """
        return replace(self, prepare=(*self.prepare, function))

    def replicated(self) -> Dataset:
        """Let every worker see all rows, in an order of its own, instead of a part of them."""
        return replace(self, assigned="replicated", key="")

    def partitioned(self, by: str) -> Dataset:
        """Let all rows with the same value in the column `by`, integers or text, go to the same worker."""
        return replace(self, assigned="partitioned", key=by)

    def shuffled(self, memory_bytes: int) -> Dataset:
        """Shuffle within about `memory_bytes`, 256 MiB if this is not said: more mixes better. At least one block is always kept."""
        if memory_bytes < 0:
            raise ValueError(f"memory_bytes is {memory_bytes}; give 0 or more")
        return replace(self, shuffle_bytes=memory_bytes)

    def open(self, storage: Mapping[str, str] | None = None) -> StreamedRows:
        """Find the data and read what describes them: the footers of Parquet, all of CSV and JSON lines once.

        Args:
            storage: Options of object stores that this process was given; those of the description come before them.
        Raises:
            DataUnreadable, DataChanged, Unavailable: The data are not there or not what they should be.
        """
        source = part_of(self.format.open({**(storage or {}), **self.storage}), *self.between)
        order = _Order(source, self.shuffle_bytes)

        def assignment(batch_size: int, seed: int) -> Assignment:
            return self._assignment(source, order, batch_size, seed)

        return StreamedRows(source, self.prepare, assignment, order.lanes + _SPARE_BLOCKS)

    def _assignment(self, source: Source, order: _Order, batch_size: int, seed: int) -> Assignment:
        rows = int(source.block_rows.sum())
        if self.assigned == "sharded":
            return Sharded(rows, batch_size, lambda epoch: order.epoch(seed, epoch))
        if self.assigned == "replicated":
            return Replicated(rows, batch_size, lambda rank, epoch: order.epoch(seed, epoch, rank + 1))
        return Partitioned(
            len(source.block_rows),
            lambda block: checked_keys(source.keys(block, self.key), self.key),
            batch_size,
            lambda sizes, rank, epoch: LaneShuffle(sizes, order.lanes, seed, epoch, rank + 1),
        )


class _Order:
    """Orders of a source's rows: any row anywhere if they can be read one by one, else mixed within what memory holds."""

    def __init__(self, source: Source, memory_bytes: int) -> None:
        self._source = source
        self.lanes = lanes_within(memory_bytes, source.block_bytes, len(source.block_rows))

    def epoch(self, *key: int) -> Shuffle:
        """Return the order that `key` stands for."""
        if isinstance(self._source, RowSource):
            return shuffled_rows(int(self._source.block_rows.sum()), *key)
        return LaneShuffle(self._source.block_rows, self.lanes, *key)


def open_data(data: Examples | Dataset, storage: Mapping[str, str] | None = None) -> Rows:
    """Open whatever `Program.data` returned; raises as `Dataset.open` does."""
    return data.open(storage) if isinstance(data, Dataset) else ArrayRows(data)
