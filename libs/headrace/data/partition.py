"""All rows with the same key go to the same worker: rows are told apart by the hash of one column.

Each key falls into one of 1024 buckets, and worker r of n has the buckets whose number leaves r when divided by n. What is kept is how many
rows of each bucket a block has (4 KiB per block); which rows they are is looked up when a block is needed.
"""

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.data.assignment import share_of, walk
from headrace.data.permutation import Int64s, mixed
from headrace.data.shuffle import Shuffle

BUCKETS = 1024
_KEPT_BLOCKS = 64  # whose members are remembered: 8 bytes for each own row of a block
_KEPT_ORDERS = 4

Keys = Callable[[int], npt.NDArray[Any]]  # a block's number -> the keys of its rows


def buckets_of(keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the bucket of each key, 0 to 1023, the same in every process and on every machine.

    Args:
        keys: Shape (n,): integers, booleans, or text.
    """
    if keys.dtype.kind in "iub":
        return (mixed(keys.astype(np.int64)) % np.uint64(BUCKETS)).astype(np.int64)
    distinct, places = np.unique(keys.astype(str), return_inverse=True)
    words = np.array([zlib.crc32(key.encode()) for key in distinct], np.uint64)
    return (mixed(words) % np.uint64(BUCKETS)).astype(np.int64)[places]


class Partitioned:
    """Every worker sees the rows of its keys, each once per epoch of its own.

    A worker's share of a step is as large as in `Sharded`, whatever number of rows it has: who has fewer begins its next epoch sooner.
    A worker that has none takes none.
    """

    def __init__(
        self, blocks: int, keys: Keys, batch_size: int, order: Callable[[Int64s, int, int], Shuffle]
    ) -> None:
        """Read the keys of all blocks once, to count.

        Args:
            order: Returns the order of the rows of blocks, by their sizes, the worker's number and the epoch's.
        """
        self._keys, self._batch_size = keys, batch_size
        counts = [np.bincount(buckets_of(keys(block)), minlength=BUCKETS) for block in range(blocks)]
        self._counts = np.array(counts, np.int32).reshape(blocks, BUCKETS)
        sizes = self._counts.sum(1, dtype=np.int64)
        self._first_rows = np.cumsum(sizes) - sizes
        self._order = order
        self._own_rows = lru_cache(_KEPT_ORDERS)(self._own_rows_of)
        self._members = lru_cache(_KEPT_BLOCKS)(self._members_of)
        self._epoch = lru_cache(_KEPT_ORDERS)(self._epoch_of)

    def share(self, step: int, rank: int, world_size: int) -> Int64s:
        """Return the next rows of the worker."""
        own = self._own_rows(rank, world_size)
        share, rows = share_of(self._batch_size, rank, world_size), int(own.sum())
        if not rows:
            return np.empty(0, np.int64)
        chosen = walk(step * share, share, rows, lambda epoch: self._epoch(rank, world_size, epoch))
        ends = np.cumsum(own)
        blocks = np.searchsorted(ends, chosen, side="right")
        found = np.empty_like(chosen)
        for block in np.unique(blocks):
            here = blocks == block
            members = self._members(int(block), rank, world_size)
            found[here] = self._first_rows[block] + members[chosen[here] - (ends[block] - own[block])]
        return found

    def _own_rows_of(self, rank: int, world_size: int) -> Int64s:
        """Count the worker's rows in each block."""
        rows: Int64s = self._counts[:, rank::world_size].sum(1, dtype=np.int64)
        return rows

    def _members_of(self, block: int, rank: int, world_size: int) -> Int64s:
        """Find the worker's rows in a block."""
        return np.flatnonzero(buckets_of(self._keys(block)) % world_size == rank)

    def _epoch_of(self, rank: int, world_size: int, epoch: int) -> Shuffle:
        return self._order(self._own_rows(rank, world_size), rank, epoch)
