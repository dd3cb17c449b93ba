"""Where a shard's values are: in new memory with each version, or in place of the former ones."""

import threading
import weakref
from typing import Protocol

import numpy as np

from headrace.parameters.layout import Floats


class ValueMemory(Protocol):
    """Gives memory for values."""

    def allocate(self, size: int) -> Floats:
        """Return memory for `size` values, shape (size,), with anything in it."""

    def rewrite(self, values: Floats) -> None:
        """Let readers in other processes know that these, as `allocate` gave them, change from now on."""


class PrivateValues:
    """Memory that no other process reads."""

    def allocate(self, size: int) -> Floats:
        """Return memory for `size` values."""
        return np.empty(size, np.float32)

    def rewrite(self, values: Floats) -> None:
        """Do nothing."""


class Successive:
    """Memory for one version after another; call it as an optimizer's `allocate`."""

    def __init__(self, memory: ValueMemory) -> None:
        self._memory = memory
        self._latest: weakref.ref[Floats] | None = None
        self._again = False

    def reuse(self) -> None:
        """Let the next version be where the latest one is."""
        self._again = True

    def __call__(self, size: int) -> Floats:
        """Return memory for a version, shape (size,): with anything in it, or, after `reuse`, with the one before."""
        again, self._again = self._again, False
        latest = self._latest() if again and self._latest else None
        if latest is not None:
            self._memory.rewrite(latest)
            return latest
        allocated = self._memory.allocate(size)
        self._latest = weakref.ref(allocated)
        return allocated


class Readers:
    """Who in this process reads the values of one version. When these are overwritten, nobody does, or begins to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = 0
        self._shut = False

    def begin(self) -> bool:
        """Keep the values as they are until `close`; return False if they are overwritten."""
        with self._lock:
            self._reading += not self._shut
            return not self._shut

    def close(self) -> None:
        """Need them no more."""
        with self._lock:
            self._reading -= 1

    def shut(self) -> bool:
        """Let nobody begin any more; return False, with nothing done, if somebody reads."""
        with self._lock:
            self._shut = self._shut or not self._reading
            return self._shut
