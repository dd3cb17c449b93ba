"""Rows as they were before a table's last update: as dense values have a former version, so that a step can be computed again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats


@dataclass(frozen=True)
class Former:
    """The rows that an update changed, made or evicted, as they were before it; all others are as they were.

    Args:
        keys: Shape (n,), all different.
        values: Shape (n, dim).
    """

    keys: Keys
    values: Floats

    @classmethod
    def of(cls, parts: Sequence[tuple[Keys, Floats]]) -> Self:
        """Put keys and their values together; no key is in two parts."""
        if len(parts) == 1:
            return cls(*parts[0])
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def put_into(self, keys: Keys, rows: Floats) -> None:
        """Write the former rows over the newest ones, shape (k, dim), which may be those of any keys."""
        if not self.keys.size:
            return
        order = np.argsort(self.keys)  # here, not for every update: hardly any is computed again
        places = order[np.searchsorted(self.keys, keys, sorter=order).clip(max=self.keys.size - 1)]
        changed = np.flatnonzero(self.keys[places] == keys)
        rows[changed] = self.values[places[changed]]


UNCHANGED = Former(np.zeros(0, np.uint64), np.zeros((0, 0), np.float32))
