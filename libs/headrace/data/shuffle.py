"""The order of an epoch: which row stands at which place. Nothing is remembered from place to place, so seeking is free.

Rows are numbered from 0 through all blocks in their order; places are numbered from 0 to rows - 1.
"""

from collections.abc import Callable

import numpy as np

from headrace.data.permutation import Int64s, Permutation, keys_of, permuted, round_keys

Shuffle = Callable[[Int64s], Int64s]  # places of one epoch -> rows


def shuffled_rows(rows: int, *key: int) -> Shuffle:
    """Return an order in which every row may stand anywhere: for data whose rows can be read one by one."""
    return Permutation(rows, *key)


class LaneShuffle:
    """An order for data that is read block by block, in which rows of `lanes` blocks alternate.

    The blocks are permuted and laid end to end, the rows of each in an order of their own; the whole is cut into `lanes` stretches of
    equal length, and place p is row p // lanes of stretch p % lanes. So

    - whoever walks through all places needs one block of each lane at a time;
    - of n workers that take every n-th place, where n divides `lanes`, each needs the blocks of its own lanes only;
    - a batch has as many rows of each lane as of any other, but for one.
    """

    def __init__(self, block_rows: Int64s, lanes: int, *key: int) -> None:
        """Order the rows of blocks.

        Args:
            block_rows: Shape (B,): rows of each block, 0 or more.
            lanes: 1 or more.
            key: Integers >= 0 that choose the order: seed and epoch.
        """
        self._keys = round_keys(*key, 1)
        self._blocks = Permutation(len(block_rows), *key, 0)(np.arange(len(block_rows)))
        self._first_rows = np.cumsum(block_rows) - block_rows  # the number of each block's first row
        self._sizes = block_rows
        self._ends = np.cumsum(block_rows[self._blocks])  # where each block ends, in the permuted order
        self._lanes = lanes
        self._long_lanes = int(block_rows.sum()) % lanes  # lanes that have one row more
        self._lane_rows = int(block_rows.sum()) // lanes

    def __call__(self, places: Int64s) -> Int64s:
        """Return the rows at `places`."""
        lanes, depths = places % self._lanes, places // self._lanes
        along = lanes * self._lane_rows + np.minimum(lanes, self._long_lanes) + depths
        turns = np.searchsorted(self._ends, along, side="right")
        blocks = self._blocks[turns]
        sizes = self._sizes[blocks]
        inside = along - (self._ends[turns] - sizes)
        return self._first_rows[blocks] + permuted(inside, sizes, keys_of(self._keys, blocks))


# Numbers that many others divide: of so many lanes, any usual number of workers has each its own.
_ROUND = (1, 2, 4, 6, 12, 24, 48, 96, 192)


def lanes_within(memory_bytes: int, block_bytes: int, blocks: int) -> int:
    """Return how many lanes `memory_bytes` are enough for, at one block of `block_bytes` each; at least 1, at most `blocks`."""
    most = min(max(1, memory_bytes // max(1, block_bytes)), max(1, blocks))
    return most if most == blocks else max(number for number in _ROUND if number <= most)
