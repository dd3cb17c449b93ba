"""The segment in which a worker lends keys and gradients of rows to the shards of its machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.lending import SegmentLender
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1.shared_memory_pb2 import SharedValues

KEY_VALUES = 2  # a key takes the place of two float32
_LEAST_BITS = 16  # of a segment's capacity: 256 KiB


class RowLoan:
    """Memory that shards may read until the loan ends."""

    def __init__(self, segment: OwnSegment) -> None:
        self._segment = segment
        self._values = segment.view()
        self._used = 0

    def put_keys(self, keys: Keys) -> SharedValues:
        """Copy keys into the segment and say where they lie."""
        self._used += self._used % KEY_VALUES
        where = self._take(KEY_VALUES * keys.size)
        self._values[where.offset : self._used].view(np.uint64)[...] = keys
        return where

    def put(self, values: Floats) -> SharedValues:
        """Copy values into the segment and say where they lie."""
        where = self._take(values.size)
        self._values[where.offset : self._used] = values.reshape(-1)
        return where

    def _take(self, count: int) -> SharedValues:
        where = SharedValues(
            segment=self._segment.describe(), sequence=self._segment.sequence, offset=self._used, count=count
        )
        self._used += count
        return where


class RowLender(SegmentLender):
    """Lends keys and gradients of rows; where a batch needs a larger segment, there is another one."""

    @contextmanager
    def lending(self, count: int) -> Iterator[RowLoan | None]:
        """Lend memory for `count` values for the time of a `with`; None: there is no shared memory here.

        When the time is over, a shard that still copies finds that it was withdrawn, and refuses it.
        """
        with self._loan(count) as segment:
            yield RowLoan(segment) if segment else None

    def _capacity_for(self, size: int, capacity: int) -> int:
        return max(rounded(size), capacity)


def rounded(count: int) -> int:
    """Return a power of two, so that a batch that is a little larger needs no other segment."""
    return 1 << max(_LEAST_BITS, (count - 1).bit_length())
