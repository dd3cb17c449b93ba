"""Memory that grows without a copy of what is in it, and costs nothing before it is used.

It is mapped privately, and growing moves the mapping (mremap), not the values. Much of it is mapped in large pages where the system has
them: rows are read at random, and with small pages the processor would look up a page for nearly each of them.
"""

import mmap

import numpy as np
import numpy.typing as npt

from headrace.errors import ResourceExhausted

_FIRST_BYTES = 1 << 16
_MOST_AHEAD_BYTES = (
    1 << 30
)  # mapped before it is needed: address space alone, pages that nobody has written to are none
_LARGE_PAGE = 2 << 20
_LARGE_BYTES = 4 << 20  # from here on large pages; below they would be mostly empty


class Growing:
    """An array of `length` items of one shape, each one byte or more; new items are zeros.

    `array` has shape (`length`, *item). Keep neither it nor a view of it over a call of `grow`.
    """

    def __init__(self, dtype: npt.DTypeLike, item: tuple[int, ...] = ()) -> None:
        self._item = item
        self._dtype = np.dtype(dtype)
        self.item_bytes = self._dtype.itemsize * int(np.prod(item, dtype=np.int64))
        self._memory = mmap.mmap(-1, _FIRST_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.length = 0
        self._view()

    def grow(self, length: int) -> None:
        """Have `length` items, unless there are as many.

        Raises:
            ResourceExhausted: The system does not give as much; nothing has changed.
        """
        if length <= self.length:
            return
        needed = length * self.item_bytes
        if needed > len(self._memory):
            del self.array  # a mapping with views cannot move
            try:
                self._remap(needed + min(needed, _MOST_AHEAD_BYTES))
            finally:
                self._view()
        self.length = length
        self._view()

    def _remap(self, size: int) -> None:
        # Linux gives large pages to a mapping only if it is a multiple of one.
        unit = _LARGE_PAGE if size >= _LARGE_BYTES else mmap.PAGESIZE
        size = -(-size // unit) * unit
        try:
            self._memory.resize(size)
        except OSError as error:
            raise ResourceExhausted(
                f"the system does not give {size} bytes of memory for a table ({error.strerror or error}); nothing was applied: "
                "use more shards, or a machine with more"
            ) from error
        if size >= _LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)

    def _view(self) -> None:
        count = self.length * self.item_bytes // self._dtype.itemsize
        self.array: npt.NDArray[np.generic] = np.frombuffer(self._memory, self._dtype, count).reshape(
            self.length, *self._item
        )
