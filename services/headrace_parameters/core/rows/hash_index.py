"""Which slot the row of a key is in: a hash table that is asked for thousands of keys at a time.

Open addressing in buckets of eight entries, one cache line: nearly every key is found with one access to memory. Buckets lie in
segments; a full segment is split in two by one more bit of the hash (extendible hashing, Fagin et al. 1979, ACM TODS 4(3)), so that growth
moves a few thousand entries at a time, never all.

An entry is 32 bits of the key's hash and 32 bits of its slot. The keys themselves lie with the rows: an entry is right if the key in
its slot is. The hash, from the top: fingerprint (32 bits), bucket within its segment (12), segment (20). Its top bits also decide the shard.
"""

from collections.abc import Callable

import numpy as np

from headrace.parameters.keys import Indices, Keys
from headrace_parameters.core.rows import kernels
from headrace_parameters.core.rows.growing import Growing
from headrace_parameters.core.rows.kernels import BUCKETS, LANES, Entries

_ENTRIES = BUCKETS * LANES  # of a segment: 256 KiB
_MOST_USED = _ENTRIES * 3 // 4  # of a segment: above, buckets overflow into the next ones too often
_SLOT = np.uint64((1 << 32) - 1)


class HashIndex:
    """Slots by key.

    Args:
        keys_by_slot: Returns the key of each slot; those of slots that were given to `insert`, and then not removed, must be right.
    """

    def __init__(self, keys_by_slot: Callable[[], Keys]) -> None:
        self._keys_by_slot = keys_by_slot
        self._buckets = Growing(np.uint64, (LANES,))
        self._directory = np.zeros(1, np.int64)  # segment by the lowest bits of the hash
        self._depths = np.zeros(0, np.int64)  # by segment: how many bits of the hash all its keys share
        self._used = np.zeros(0, np.int64)  # by segment: entries that are not empty
        self._new_segment(depth=0)

    @property
    def size_bytes(self) -> int:
        """Memory of the entries."""
        return self._depths.size * 8 * _ENTRIES

    def find(self, keys: Keys) -> tuple[Indices, int]:
        """Return the slot of each key, shape (n,), -1 for keys that are not here; and how many these are."""
        slots = np.empty(keys.size, np.int64)
        absent = kernels.find(self._entries, self._directory, self._keys_by_slot(), keys, slots)
        return slots, absent

    def make_room(self, keys: Keys) -> None:
        """Make sure that `insert` finds room for these keys, all different.

        Raises:
            ResourceExhausted: The system has no more memory; nothing is lost.
        """
        while True:
            new = np.zeros(self._used.size, np.int64)
            kernels.per_segment(self._directory, keys, new)
            full = np.flatnonzero((self._used + new > _MOST_USED) & (new > 0))
            if not full.size:
                return
            for segment in full:
                self._rebuild(int(segment), int(new[segment]))

    def insert(self, keys: Keys, slots: Indices) -> None:
        """Add keys, all different and none of them here, with their slots; `make_room` was called."""
        kernels.insert(self._entries, self._directory, self._used, keys, slots)

    def remove(self, keys: Keys) -> None:
        """Take out keys, all different and each of them here."""
        places = np.empty(keys.size, np.int64)
        kernels.locate(self._entries, self._directory, self._keys_by_slot(), keys, places)
        kernels.remove(self._entries, self._used, places)

    @property
    def _entries(self) -> Entries:
        return self._buckets.array  # type: ignore[return-value]  # made with this type

    def _rebuild(self, segment: int, new: int) -> None:
        """Write a segment again without what was removed, and split it if `new` more keys still would not fit."""
        entries = self._part(segment)
        entries = entries[entries > kernels.REMOVED]
        if entries.size + new > _MOST_USED:
            self._split(segment)
        self._part(segment)[...] = kernels.EMPTY
        self._used[segment] = 0
        slots = (entries & _SLOT).view(np.int64) - 1
        self.insert(self._keys_by_slot().take(slots), slots)

    def _part(self, segment: int) -> Entries:
        return self._entries[segment * BUCKETS : (segment + 1) * BUCKETS]

    def _split(self, segment: int) -> None:
        """Let a new segment have the keys of this one that have the next bit of the hash set."""
        depth = int(self._depths[segment])
        added = self._new_segment(depth + 1)
        self._depths[segment] += 1
        if 1 << depth == self._directory.size:
            self._directory = np.concatenate([self._directory, self._directory])
        mine = np.flatnonzero(self._directory == segment)
        self._directory[mine[(mine >> depth) & 1 == 1]] = added

    def _new_segment(self, depth: int) -> int:
        segment = self._depths.size
        self._buckets.grow((segment + 1) * BUCKETS)
        self._depths = np.append(self._depths, depth)
        self._used = np.append(self._used, 0)
        return segment
