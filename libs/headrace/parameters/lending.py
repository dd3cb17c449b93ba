"""The segment in which a worker lends its gradients to the shards of its machine."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from headrace.errors import Cancelled, SharedMemoryUnavailable
from headrace.parameters.layout import Floats
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1 import shared_memory_pb2

_LEAVE_S = 30.0  # that closing waits for a loan: its call has been stopped, and has only to ask each shard to take nothing more
# Takes the nonce of a segment and its sequence.
TakeBack = Callable[[bytes, int], object]


class Loan:
    """A gradient that shards may read until the loan ends.

    Args:
        gradient: Shape (N,).
        copied: It lies elsewhere, and each part must be copied into the segment before its shard is told of it.
    """

    def __init__(self, segment: OwnSegment, gradient: Floats, *, copied: bool) -> None:
        self._segment = segment
        self._gradient = gradient
        self._values = segment.view()
        self._sequence = segment.sequence
        self._copied = copied

    def lend(self, parts: Sequence[range]) -> shared_memory_pb2.SharedValues:
        """Say where these parts of the gradient lie.

        Raises:
            Cancelled: The loan has ended.
        """
        if self._segment.sequence != self._sequence:
            raise Cancelled("the gradient is not lent any more")
        for part in parts if self._copied else ():
            self._values[part.start : part.stop] = self._gradient[part.start : part.stop]
        first, *further = parts or [range(0)]
        return shared_memory_pb2.SharedValues(
            segment=self._segment.describe(),
            sequence=self._sequence,
            offset=first.start,
            count=len(first),
            further=[shared_memory_pb2.SharedSpan(offset=part.start, count=len(part)) for part in further],
        )


class SegmentLender(ABC):
    """A worker's segment, made when it is first needed. One loan at a time: others wait for its end.

    Args:
        enabled: Whether to lend at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lock = threading.RLock()  # whoever closes it amid a loan of its own waits for nobody
        self._segment: OwnSegment | None = None
        self._loans = 0

    def close(self) -> bytes:
        """Lend nothing any more, as soon as a loan is over that runs, and let no shard find the segment; arrays of it stay.

        Returns:
            What the shards know the segment by; empty if there was none.
        """
        over = self._lock.acquire(timeout=_LEAVE_S)
        try:
            segment, self._segment, self._enabled = self._segment, None, False
        finally:
            if over:
                self._lock.release()
        if segment is None:
            return b""
        segment.close()
        return segment.nonce

    @abstractmethod
    def _capacity_for(self, size: int, capacity: int) -> int:
        """Return the capacity that a segment for `size` values must have, where there is one of `capacity` values, or 0 without."""

    def _reserve(self, size: int) -> OwnSegment | None:
        capacity = self._segment.capacity if self._segment else 0
        needed = self._capacity_for(size, capacity)
        if self._enabled and (self._segment is None or needed != capacity):
            try:
                self._segment = OwnSegment(needed)
            except SharedMemoryUnavailable:
                self._enabled = False
        return self._segment if self._enabled else None

    @contextmanager
    def _loan(self, size: int) -> Iterator[OwnSegment | None]:
        """Have a segment for `size` values for the time of a `with`, under a sequence of its own; None: there is no shared memory here."""
        with self._lock:
            segment = self._reserve(size)
            if segment is None:
                yield None
                return
            self._loans += 1
            segment.sequence = self._loans
            try:
                yield segment
            finally:
                segment.sequence = 0


class Lender(SegmentLender):
    """Lends gradients of the whole model, or of parts of it."""

    def memory(self, size: int) -> Floats:
        """Return zeros, shape (size,): a gradient that is computed in them needs no copy on its way to the shards of this machine."""
        segment = self._reserve(size)
        if segment is None:
            return np.zeros(size, np.float32)
        values = segment.view()
        values.fill(0)
        return values

    @contextmanager
    def lending(self, gradient: Floats, take_back: TakeBack) -> Iterator[Loan | None]:
        """Lend a gradient for the time of a `with`; None: there is no shared memory here.

        If it ends well, all shards have answered, and read the gradient no more. Else it is taken back: shards that still need it copy it
        first. One that cannot be asked finds that the loan is over; it takes the gradient no more, or if it was just applying it, ends.

        Args:
            take_back: Asks all shards.
        """
        with self._loan(gradient.size) as segment:
            if segment is None:
                yield None
                return
            try:
                yield Loan(segment, gradient, copied=not _is_view(gradient, segment))
            except BaseException:
                take_back(segment.nonce, segment.sequence)
                raise

    def _capacity_for(self, size: int, capacity: int) -> int:  # noqa: ARG002 - gradients of a model have one size
        return size


def _is_view(gradient: Floats, segment: OwnSegment) -> bool:
    return gradient.ctypes.data == segment.view().ctypes.data
