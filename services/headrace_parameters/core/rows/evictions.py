"""Which keys a table has evicted, for snapshots that have only what changed."""

import numpy as np

from headrace.parameters.keys import Keys

_NONE: Keys = np.zeros(0, np.uint64)


class Evictions:
    """Keys in the order in which their rows went; those that nobody asks for any more are forgotten."""

    def __init__(self) -> None:
        self._keys = _NONE
        self._new: list[Keys] = []
        self._forgotten = 0

    @property
    def count(self) -> int:
        """How many there were; for `since`."""
        return self._forgotten + self._keys.size + sum(keys.size for keys in self._new)

    def add(self, keys: Keys) -> None:
        """Take note of rows that went."""
        self._new.append(keys)

    def since(self, count: int) -> Keys:
        """Return the keys that came after the first `count`, which are forgotten; a key that went twice is there twice."""
        keys = np.concatenate([self._keys, *self._new])[count - self._forgotten :]
        self._keys, self._new, self._forgotten = keys, [], count
        return keys
