"""The segment in which a worker lends keys and gradients of rows to the shards of its machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
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


class RowLender:
    """A worker's segment for rows, made when it is first needed and again when a larger one is. One loan at a time: others wait for
    its end.

    Args:
        enabled: Whether to lend at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lock = threading.Lock()
        self._segment: OwnSegment | None = None
        self._loans = 0

    @property
    def nonce(self) -> bytes:
        """What the shards know the segment by; empty if there is none."""
        return self._segment.nonce if self._segment else b""

    @contextmanager
    def lending(self, count: int) -> Iterator[RowLoan | None]:
        """Lend memory for `count` values for the time of a `with`; None: there is no shared memory here.

        When the time is over, a shard that still copies finds that it was withdrawn, and refuses it.
        """
        with self._lock:
            segment = self._reserve(count)
            if segment is None:
                yield None
                return
            self._loans += 1
            segment.sequence = self._loans
            try:
                yield RowLoan(segment)
            finally:
                segment.sequence = 0

    def close(self) -> None:
        """Let no shard find the segment any more."""
        if self._segment:
            self._segment.close()
        self._segment, self._enabled = None, False

    def _reserve(self, count: int) -> OwnSegment | None:
        if self._enabled and (self._segment is None or self._segment.capacity < count):
            try:
                self._segment = OwnSegment(rounded(count))
            except SharedMemoryUnavailable:
                self._enabled = False
        return self._segment if self._enabled else None


def rounded(count: int) -> int:
    """Return a power of two, so that a batch that is a little larger needs no other segment."""
    return 1 << max(_LEAST_BITS, (count - 1).bit_length())
