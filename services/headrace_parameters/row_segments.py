"""The segments in which workers of this machine put keys and gradients of rows, and those in which they find rows."""

import threading
from collections.abc import Callable
from typing import Self

import numpy as np

from headrace.errors import ShapeMismatch
from headrace.names import StoreName
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.row_lending import KEY_VALUES, rounded
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1.shared_memory_pb2 import SharedValues
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.live import LiveStore
from headrace_parameters.recycled import PrivateMemory, Recycled


class RowSegments:
    """One segment that each worker of a store writes, and one that it reads; both are let go when the worker, or the store, is gone.

    Args:
        find: Returns the store of a name, or raises NotFound.
    """

    def __init__(self, find: Callable[[StoreName], LiveStore]) -> None:
        self._written = GradientSegments(find)
        self._answers: dict[tuple[StoreName, int], _AnswerMemory] = {}
        self._lock = threading.Lock()
        self._copies = Recycled(PrivateMemory)

    @property
    def count(self) -> int:
        """How many segments there are, of both kinds."""
        return self._written.count + len(self._answers)

    def keys(self, store: LiveStore, worker: int, where: SharedValues) -> Keys:
        """Copy keys out of a worker's segment.

        Raises:
            SharedMemoryUnavailable, ShapeMismatch, Cancelled: As `GradientSegments.read`.
        """
        if where.offset % KEY_VALUES or where.count % KEY_VALUES:
            raise ShapeMismatch(
                f"{where.count} values from {where.offset} on are no keys; a key takes {KEY_VALUES}"
            )
        (copied,) = [keys.view(np.uint64).copy() for keys in self._written.read(store, worker, where)]
        return copied

    def values(self, store: LiveStore, worker: int, where: SharedValues) -> Floats:
        """Copy values out of a worker's segment, shape (count,).

        Raises:
            SharedMemoryUnavailable, ShapeMismatch, Cancelled: As `GradientSegments.read`.
        """
        _, copy = self._copies.take(rounded(where.count))
        for values in self._written.read(store, worker, where):
            copy[: where.count] = values
        return copy[: where.count]

    def answer(self, store: LiveStore, worker: int, count: int) -> "Answer":
        """Return a context in which `count` values are written where this worker, whose keys were read, finds them."""
        with self._lock:
            memory = self._answers.setdefault((store.config.name, worker), _AnswerMemory())
        return Answer(memory, count)

    def release(self, store: StoreName, worker: int, nonce: bytes) -> None:
        """Let go of a worker's segment, if it is this one, and of the one it reads."""
        self._written.release(store, worker, nonce)
        self._drop_unread()

    def sweep(self) -> None:
        """Let go of the segments whose worker or store is gone."""
        self._written.sweep()
        self._drop_unread()

    def _drop_unread(self) -> None:
        with self._lock:
            for key in self._answers.keys() - self._written.workers():
                del self._answers[key]


class _AnswerMemory:
    """The segment in which one worker finds its rows; one call at a time writes to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.segment: OwnSegment | None = None
        self.answers = 0

    def reserve(self, count: int) -> OwnSegment:
        """Return a segment with room for `count` values, whose readers know by its sequence that it is written again."""
        if self.segment is None or self.segment.capacity < count:
            self.segment = OwnSegment(rounded(count))
        self.answers += 1
        self.segment.sequence = self.answers
        return self.segment


class Answer:
    """Values for a worker; a context that nobody else writes to this worker's segment in, once `memory` was asked for."""

    def __init__(self, memory: _AnswerMemory, count: int) -> None:
        self._memory = memory
        self._count = count
        self._segment: OwnSegment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._segment:
            self._memory.lock.release()

    def memory(self) -> Floats:
        """Return where to write the values, shape (count,)."""
        self._memory.lock.acquire()
        try:
            self._segment = self._memory.reserve(self._count)
        except BaseException:
            self._memory.lock.release()
            raise
        return self._segment.view()[: self._count]

    def located(self) -> SharedValues:
        """Say where they are, once they are written."""
        assert self._segment is not None
        return SharedValues(
            segment=self._segment.describe(), sequence=self._segment.sequence, count=self._count
        )
