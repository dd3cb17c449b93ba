"""What was not sent is kept, and added to what comes next: error feedback (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599)."""

import math

import numpy as np

from headrace.errors import NonFiniteValues
from headrace.parameters.filters.selection import Select
from headrace.parameters.filters.sparse import Places
from headrace.parameters.layout import Floats


class Residual:
    """What one worker holds back of its gradients, shape (size,): zeros at first.

    After every step what was sent plus what is held back equals, to the last bit, the gradient plus what was held back before, which is
    rounded once, as any sum of two floats.

    Args:
        select: Which values are sent.
    """

    def __init__(self, select: Select, size: int) -> None:
        self._select = select
        self._kept, self._next = (np.zeros(size, np.float32) for _ in range(2))
        self._chosen: Places = np.empty(0, np.int64)

    @property
    def values(self) -> Floats:
        """What is held back, shape (size,)."""
        return self._kept

    def choose(self, gradient: Floats) -> tuple[Places, Floats]:
        """Return places, ascending, and values that are to be sent. Nothing has changed until `sent` is called.

        Raises:
            NonFiniteValues: The gradient holds a NaN or an infinity, which would stay in what is held back for ever.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(gradient, self._kept, out=self._next)
            total = float(self._next.sum())
        if not math.isfinite(total) and not np.isfinite(self._next).all():
            place = int(np.argmin(np.isfinite(self._next)))
            raise NonFiniteValues(
                f"the gradient holds {gradient[place]} at offset {place} of the shard; nothing was sent: lower the learning rate or "
                "skip the batch",
                metadata={"offset": place},
            )
        self._chosen = self._select(self._next)
        return self._chosen, self._next[self._chosen]

    def sent(self) -> None:
        """Take note that the values chosen last have arrived."""
        self._next[self._chosen] = 0
        self._kept, self._next = self._next, self._kept
        self._chosen = self._chosen[:0]
