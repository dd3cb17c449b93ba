"""Selections of the flat vector: ascending ranges, whose values follow each other without gaps in a vector of their own."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Shared(NamedTuple):
    """Consecutive values that two selections have both: where they begin in the vector of each, and which they are."""

    first: int
    second: int
    values: range


def length(ranges: Sequence[range]) -> int:
    """Return how many values a selection has."""
    return sum(map(len, ranges))


def shared(first: Sequence[range], second: Sequence[range]) -> Iterator[Shared]:
    """Yield what two selections have in common, in the order of the vector."""
    ours, theirs = 0, 0  # where the current range of each begins in its vector
    left, right = iter(first), iter(second)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        start, stop = max(one.start, other.start), min(one.stop, other.stop)
        if start < stop:
            yield Shared(ours + start - one.start, theirs + start - other.start, range(start, stop))
        if one.stop < other.stop:
            ours, one = ours + len(one), next(left, None)
        else:
            theirs, other = theirs + len(other), next(right, None)
