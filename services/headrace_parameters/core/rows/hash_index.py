"""Which slot the row of a key is in: a hash table that is asked for thousands of keys at a time.

Open addressing in buckets of eight entries, one cache line: nearly every key is found with one access to memory, and all keys of a
call with a handful of numpy operations. Buckets lie in segments; a full segment is split in two by one more bit of the hash
(extendible hashing, Fagin et al. 1979, ACM TODS 4(3)), so that growth moves a few thousand entries at a time, never all.

An entry is 32 bits of the key's hash and 32 bits of its slot. The keys themselves lie with the rows: an entry is right if the key in
its slot is.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from headrace.parameters.keys import Indices, Keys, mix
from headrace_parameters.core.rows.growing import Growing

_LANES = 8  # entries of a bucket: 64 bytes
_BUCKET_BITS = 12
_BUCKETS = 1 << _BUCKET_BITS  # of a segment: 256 KiB
_ENTRIES = _BUCKETS * _LANES
_MOST_USED = _ENTRIES * 3 // 4  # of a segment: above, buckets overflow into the next ones too often
SEGMENT_BYTES = _ENTRIES * 8
ENTRY_BYTES = -(-_ENTRIES * 8 // (_MOST_USED // 2))  # at most, per key: just after a split
MAX_SLOTS = (1 << 32) - 2

# The hash, from the top: fingerprint (32 bits), bucket within its segment (12), segment (20). Its top bits also decide the shard.
_BUCKET_SHIFT = np.uint64(32 - _BUCKET_BITS)
_HALF = np.uint64(32)
_SLOT = np.uint64((1 << 32) - 1)
_EMPTY = np.uint64(0)
_REMOVED = np.uint64(1)  # no key has it: the fingerprint of an entry is odd
_ODD = np.uint64(1)

Entries = npt.NDArray[np.uint64]


class HashIndex:
    """Slots by key.

    Args:
        keys_of: Returns the keys in slots, shape (n,); asked for slots that were given to `insert`, and then not removed.
    """

    def __init__(self, keys_of: Callable[[Indices], Keys]) -> None:
        self._keys_of = keys_of
        self._buckets = Growing(np.uint64, (_LANES,))
        self._directory = np.zeros(1, np.int64)  # segment by the lowest bits of the hash
        self._depths = np.zeros(0, np.int64)  # by segment: how many bits of the hash all its keys share
        self._used = np.zeros(0, np.int64)  # by segment: entries that are not empty
        self._new_segment(depth=0)

    @property
    def size_bytes(self) -> int:
        """Memory of the entries."""
        return self._depths.size * SEGMENT_BYTES

    def find(self, keys: Keys) -> Indices:
        """Return the slot of each key, shape (n,); -1 for keys that are not here."""
        return self._locate(keys)[0]

    def make_room(self, keys: Keys) -> None:
        """Make sure that `insert` finds room for these keys, all different.

        Raises:
            ResourceExhausted: The system has no more memory; nothing is lost.
        """
        hashes = mix(keys)
        while True:
            new = np.bincount(self._segments(hashes), minlength=self._used.size)
            full = np.flatnonzero((self._used + new > _MOST_USED) & (new > 0))
            if not full.size:
                return
            for segment in full:
                self._rebuild(int(segment), int(new[segment]))

    def insert(self, keys: Keys, slots: Indices) -> None:
        """Add keys, all different and none of them here, with their slots.

        The slots' keys must be readable before, and `make_room` called.
        """
        hashes = mix(keys)
        np.add.at(self._used, self._segments(hashes), 1)
        self._place(hashes, slots)

    def remove(self, keys: Keys) -> None:
        """Take out keys, all different and each of them here."""
        _, places = self._locate(keys)
        buckets = places // _LANES
        # A search ends at a bucket with an empty entry: in one without, an entry must stay, so that it does not end too early.
        ends = (self._entries[buckets] == _EMPTY).any(axis=1)
        self._entries.reshape(-1)[places] = np.where(ends, _EMPTY, _REMOVED)
        np.subtract.at(self._used, buckets[ends] // _BUCKETS, 1)

    @property
    def _entries(self) -> Entries:
        return self._buckets.array  # type: ignore[return-value]  # made with this type

    def _segments(self, hashes: Keys) -> Indices:
        low = hashes & np.uint64(self._directory.size - 1)
        return self._directory.take(low.view(np.int64))

    def _first_buckets(self, hashes: Keys) -> Indices:
        within = (hashes >> _BUCKET_SHIFT) & np.uint64(_BUCKETS - 1)
        return self._segments(hashes) * _BUCKETS + within.view(np.int64)

    def _locate(self, keys: Keys) -> tuple[Indices, Indices]:
        """Return slot and place (8 bucket + lane) of each key; -1 for keys that are not here."""
        hashes = mix(keys)
        prints = (hashes >> _HALF) | _ODD
        buckets = self._first_buckets(hashes)
        lanes, slots, found = self._look(keys, prints, buckets)
        places = np.where(found, buckets * _LANES + lanes, -1)
        slots = np.where(found, slots, -1)
        left = np.flatnonzero(~found)
        while left.size:
            entries = self._entries.take(buckets[left], axis=0)
            lane, slot, found = self._look_closely(keys[left], prints[left], entries)
            here = left[found]
            slots[here], places[here] = slot[found], buckets[here] * _LANES + lane[found]
            left = left[~found & (entries != _EMPTY).all(axis=1)]
            buckets[left] = _next(buckets[left])
        return slots, places

    def _look(
        self, keys: Keys, prints: Keys, buckets: Indices
    ) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
        """Look at the first entry of each bucket that may be the key's; it nearly always is, if there is any."""
        entries = self._entries.take(buckets, axis=0)
        lanes = ((entries >> _HALF) == prints[:, None]).argmax(axis=1)
        chosen = entries.reshape(-1).take(lanes + np.arange(0, entries.size, _LANES))
        likely = (chosen >> _HALF) == prints
        slots = (chosen & _SLOT).view(np.int64) - 1
        found = likely & (self._keys_of(np.where(likely, slots, 0)) == keys)
        return lanes, slots, found

    def _look_closely(
        self, keys: Keys, prints: Keys, entries: Entries
    ) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
        """Look at all entries of each bucket."""
        lanes, slots = np.zeros(keys.size, np.int64), np.zeros(keys.size, np.int64)
        found = np.zeros(keys.size, np.bool_)
        which, lane = np.nonzero((entries >> _HALF) == prints[:, None])
        slot = (entries[which, lane] & _SLOT).view(np.int64) - 1
        right = self._keys_of(slot) == keys[which]
        which = which[right]
        lanes[which], slots[which], found[which] = lane[right], slot[right], True
        return lanes, slots, found

    def _place(self, hashes: Keys, slots: Indices) -> None:
        """Write entries, each to the first bucket from its own on that has room."""
        entries = ((hashes >> _HALF) | _ODD) << _HALF | (slots + 1).view(np.uint64)
        buckets = self._first_buckets(hashes)
        while entries.size:
            order = np.argsort(buckets, kind="stable")
            entries, buckets = entries[order], buckets[order]
            rank = np.arange(buckets.size) - np.searchsorted(buckets, buckets)  # among the keys of its bucket
            free = self._entries.take(buckets, axis=0) <= _REMOVED
            taken = free & (free.cumsum(axis=1) == (rank + 1)[:, None])
            fits = taken.any(axis=1)
            self._entries[buckets[fits], taken[fits].argmax(axis=1)] = entries[fits]
            entries, buckets = entries[~fits], _next(buckets[~fits])

    def _rebuild(self, segment: int, new: int) -> None:
        """Write a segment again without what was removed, and split it if `new` more keys still would not fit."""
        entries = self._part(segment)
        entries = entries[entries > _REMOVED]
        if entries.size + new > _MOST_USED:
            self._split(segment)
        self._part(segment)[...] = _EMPTY
        self._used[segment] = 0
        slots = (entries & _SLOT).view(np.int64) - 1
        hashes = mix(self._keys_of(slots))
        np.add.at(self._used, self._segments(hashes), 1)
        self._place(hashes, slots)

    def _part(self, segment: int) -> Entries:
        return self._entries[segment * _BUCKETS : (segment + 1) * _BUCKETS]

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
        self._buckets.grow((segment + 1) * _BUCKETS)
        self._depths = np.append(self._depths, depth)
        self._used = np.append(self._used, 0)
        return segment


def _next(buckets: Indices) -> Indices:
    """Return the bucket after each, within its segment."""
    within = _BUCKETS - 1
    return (buckets & ~within) | ((buckets + 1) & within)
