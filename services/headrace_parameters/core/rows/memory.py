"""The slots of a table: each holds one row with all that belongs to it, or is free."""

import numpy as np
import numpy.typing as npt

from headrace.errors import QuotaExceeded
from headrace.parameters.keys import Indices, Keys
from headrace.parameters.layout import Floats
from headrace_parameters.core.rows.growing import Growing

FREE = -1  # when a slot without a row was touched
LATEST = (1 << 31) - 1  # steps beyond count as this one
MAX_SLOTS = (1 << 32) - 2  # as many as an entry of the index can tell apart
SEGMENT_BYTES = 1 << 18  # of the index, which has one at least
ENTRY_BYTES = (
    22  # of the index, at most, per key: just after a split, with eight bytes an entry and 3/8 of them in use
)
_FACTS_BYTES = 8 + 4  # of a slot: its key, and when it was touched
_AHEAD = 1024  # slots that are made at a time


def needed_bytes(dim: int, width: int, rows: int) -> int:
    """Return the memory that so many rows, with `width` values of state each, need at most, index included."""
    return rows * (4 * (dim + width) + _FACTS_BYTES + ENTRY_BYTES) + SEGMENT_BYTES


Steps = npt.NDArray[np.int32]


class RowMemory:
    """Values, optimizer state, key and last touch of each slot. Slots that were freed are used again first.

    Args:
        dim: Values of a row.
        width: Values of its state.
    """

    def __init__(self, dim: int, width: int) -> None:
        self.dim, self.width = dim, width
        self._values = Growing(np.float32, (dim,))
        self._state = Growing(np.float32, (width,)) if width else None
        self._keys = Growing(np.uint64)
        self._touched = Growing(np.int32)
        self._free: Indices = np.zeros(0, np.int64)
        self._used = 0  # slots that had a row at any time
        self._grow(_AHEAD)

    @property
    def rows(self) -> int:
        """How many slots hold a row."""
        return self._used - self._free.size

    @property
    def used(self) -> int:
        """How many slots had a row at any time: what takes memory."""
        return self._used

    @property
    def values(self) -> Floats:
        """Shape (slots, dim); not to be kept over a call of `allocate`, as all that follow."""
        return self._values.array  # type: ignore[return-value]  # made with this type

    @property
    def state(self) -> Floats:
        """Shape (slots, width); without slots if width is 0."""
        if self._state is None:
            return np.zeros((0, 0), np.float32)
        return self._state.array  # type: ignore[return-value]  # made with this type

    @property
    def keys(self) -> Keys:
        """Key of each slot, shape (slots,)."""
        return self._keys.array  # type: ignore[return-value]  # made with this type

    @property
    def touched(self) -> Steps:
        """Step of the last touch, shape (slots that were ever used,); `FREE` without a row."""
        return self._touched.array[: self._used]  # type: ignore[return-value]  # made with this type

    def keys_of(self, slots: Indices) -> Keys:
        """Return the keys of rows."""
        return self.keys.take(slots)

    def live(self, since: int = 0) -> Indices:
        """Return all slots that hold a row which was touched in step `since` or later, ascending."""
        return np.flatnonzero(self.touched >= since)  # a free one is touched at -1

    def allocate(self, keys: Keys, values: Floats, state: Floats | float) -> Indices:
        """Put new rows into slots, for which `make_room` was called, and return these; their touch is yet to be set.

        Args:
            values: Shape (n, dim).
            state: Theirs, shape (n, width), or what every value of it is.
        """
        reused = min(self._free.size, keys.size)
        fresh = keys.size - reused
        kept = self._free.size - reused
        slots = np.concatenate([self._free[kept:], np.arange(self._used, self._used + fresh)])
        self._free, self._used = self._free[:kept].copy(), self._used + fresh
        self.values[slots] = values
        if self._state:
            self._state.array[slots] = state
        self._keys.array[slots] = keys
        return slots

    def free(self, slots: Indices) -> None:
        """Take rows out of their slots."""
        self.touched[slots] = FREE
        self._free = np.concatenate([self._free, slots])

    def make_room(self, rows: int) -> None:
        """Make sure that there are slots for so many rows in all.

        Raises:
            ResourceExhausted: The system has no more memory; nothing has changed.
        """
        if rows > MAX_SLOTS:
            raise QuotaExceeded(f"a shard of a table holds {MAX_SLOTS} rows at most; use more shards")
        self._grow(max(rows, self._used))

    def _grow(self, slots: int) -> None:
        if slots <= self._keys.length:
            return
        length = -(-slots // _AHEAD) * _AHEAD
        self._values.grow(length)
        if self._state:
            self._state.grow(length)
        self._keys.grow(length)
        self._touched.grow(length)
