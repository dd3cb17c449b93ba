"""What a rank trains with in each step, read ahead of time where the data are streamed."""

from collections.abc import Callable

import numpy as np

from headrace.data.assignment import Assignment
from headrace.data.prefetch import AHEAD, Prefetcher
from headrace.data.rows import Rows, StreamedRows
from headrace.program import Examples
from headrace_training.core.order import DataOrder

Key = tuple[int, int, int]  # step, rank, world size
Feed = Callable[[int, int, int], Examples]

_NONE = Examples({}, np.empty(0))


def feed(rows: Rows, batch_size: int, seed: int, steps: int) -> Feed:
    """Return a function of step, rank and number of ranks that returns the rank's examples of that step; none if there are too few.

    It depends on nothing else, so a run may go on anywhere, and with any number of ranks.

    Args:
        batch_size: Examples of a step, over all ranks.
        steps: Of the whole run: nothing beyond is read.
    """
    if not isinstance(rows, StreamedRows):
        order = DataOrder(len(rows), batch_size, seed)
        return lambda step, rank, world_size: _examples(rows, order, (step, rank, world_size))
    return _streamed(rows, rows.assignment(batch_size, seed), steps)


def _streamed(rows: Rows, assignment: Assignment, steps: int) -> Feed:
    prefetcher: Prefetcher[Key, Examples] = Prefetcher(lambda key: _examples(rows, assignment, key))

    def next_examples(step: int, rank: int, world_size: int) -> Examples:
        following = range(step + 1, min(step + 1 + AHEAD, steps))
        return prefetcher.get((step, rank, world_size), [(each, rank, world_size) for each in following])

    return next_examples


def _examples(rows: Rows, assignment: Assignment | DataOrder, key: Key) -> Examples:
    chosen = assignment.share(*key)
    return rows.take(chosen) if len(chosen) else _NONE
