"""Which rows a worker takes in a step: a function of the step, the worker's place and the number of workers, and of nothing else.

A run that goes on after a checkpoint, or with more or fewer workers, therefore needs to be told nothing but the step.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np

from headrace.data.permutation import Int64s
from headrace.data.shuffle import Shuffle

_KEPT_ORDERS = (
    4  # two epochs meet in a step, and a test or two may look back; making an order costs more than asking it
)


class Assignment(Protocol):
    """Divides the rows of each step among workers."""

    def share(self, step: int, rank: int, world_size: int) -> Int64s:
        """Return the rows of `step` for worker `rank` of `world_size`, shape (n,); none if there are more workers than rows."""


class Sharded:
    """Every row once per epoch, over all workers.

    A step takes the next `batch_size` places of the epoch, the last step what is left; worker r takes every `world_size`-th of them,
    beginning with r. Whatever the number of workers is in each step, the shares of all workers make up the step.
    """

    def __init__(self, rows: int, batch_size: int, epoch: Callable[[int], Shuffle]) -> None:
        """Divide `rows` >= 1 rows in batches of `batch_size` >= 1; `epoch` returns the order of one."""
        self._rows, self._batch_size = rows, batch_size
        self._epoch = lru_cache(_KEPT_ORDERS)(epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every row once."""
        return -(-self._rows // self._batch_size)

    def share(self, step: int, rank: int, world_size: int) -> Int64s:
        """Return the worker's part of the step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        begin = place * self._batch_size
        end = min(begin + self._batch_size, self._rows)
        return self._epoch(epoch)(np.arange(begin + rank, end, world_size))


class Replicated:
    """Every worker sees every row once per epoch of its own, in an order of its own.

    A worker's share of a step is as large as in `Sharded`. Its epochs follow each other without a smaller batch.
    """

    def __init__(self, rows: int, batch_size: int, epoch: Callable[[int, int], Shuffle]) -> None:
        """Walk through `rows` >= 1 rows; `epoch` returns the order of an epoch of a worker, by the worker's number and the epoch's."""
        self._rows, self._batch_size = rows, batch_size
        self._epoch = lru_cache(_KEPT_ORDERS)(epoch)

    def share(self, step: int, rank: int, world_size: int) -> Int64s:
        """Return the next rows of the worker."""
        share = share_of(self._batch_size, rank, world_size)
        return walk(step * share, share, self._rows, lambda epoch: self._epoch(rank, epoch))


def share_of(batch_size: int, rank: int, world_size: int) -> int:
    """Return how many of a batch's examples are a worker's."""
    return len(range(rank, batch_size, world_size))


def walk(begin: int, count: int, rows: int, epoch: Callable[[int], Shuffle]) -> Int64s:
    """Return `count` rows from the place `begin` on, counted through all epochs of `rows` >= 1 rows each."""
    places = np.arange(begin, begin + count)
    taken = np.empty_like(places)
    for number in np.unique(places // rows):
        here = places // rows == number
        taken[here] = epoch(int(number))(places[here] % rows)
    return taken
