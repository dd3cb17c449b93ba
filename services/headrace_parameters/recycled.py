"""Large arrays whose memory is used again as soon as nothing refers to them any more.

malloc would do, but for threads that are not the first it maps large memory anew each time, whose pages the kernel must zero.
"""

import mmap
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np

from headrace.parameters.layout import Floats


class Memory(Protocol):
    """Memory for values."""

    @property
    def capacity(self) -> int:
        """For how many."""

    def view(self) -> Floats:
        """Return them, shape (capacity,), as an array that nothing else refers to."""


Kind = TypeVar("Kind", bound=Memory)


class Recycled(Generic[Kind]):
    """Arrays of one size, mostly; memory of another size is dropped when it comes to hand.

    Args:
        make: Makes memory of some capacity.
    """

    def __init__(self, make: Callable[[int], Kind]) -> None:
        self._make = make
        # Filled by whichever thread drops the last reference; both ends of a deque are safe without a lock.
        self._free: deque[Kind] = deque()
        self._sizes: dict[int, int] = {}  # bytes of all memory that is alive, by its id

    @property
    def size_bytes(self) -> int:
        """Of all memory that is in use or kept for later."""
        return sum(list(self._sizes.values()))

    def take(self, size: int) -> tuple[Kind, Floats]:
        """Return memory, and its values, shape (size,), with anything in them; it is free again when no array refers to these."""
        memory = self._find(size) or self._made(size)
        values = memory.view()
        weakref.finalize(values, self._free.append, memory)
        return memory, values

    def _made(self, size: int) -> Kind:
        memory = self._make(size)
        self._sizes[id(memory)] = 4 * memory.capacity
        weakref.finalize(memory, self._sizes.pop, id(memory), None)
        return memory

    def _find(self, size: int) -> Kind | None:
        while True:
            try:
                memory = self._free.popleft()
            except IndexError:
                return None
            if memory.capacity == size:
                return memory


def passing_memory(size: int) -> Floats:
    """Return memory for `size` values, shape (size,), that the system gets back when nothing refers to it any more."""
    return np.frombuffer(mmap.mmap(-1, max(1, 4 * size)), np.float32, size)


class PrivateMemory:
    """Memory of this process alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._bytes = bytearray(4 * capacity)

    def view(self) -> Floats:
        """Return its values, shape (capacity,), as an array that nothing else refers to."""
        return np.frombuffer(self._bytes, np.float32)
