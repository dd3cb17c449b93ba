"""Loops over the keys and rows of a call: what numpy does in a dozen passes, in one or two. See `headrace_optimizers.compiled`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.parameters.keys import Indices, Keys
from headrace.parameters.layout import Floats
from headrace_optimizers.compiled import compiled, inlined, prefetch

Entries = npt.NDArray[np.uint64]

LANES = 8  # entries of a bucket: 64 bytes, one cache line
BUCKET_BITS = 12
BUCKETS = 1 << BUCKET_BITS  # of a segment
EMPTY = np.uint64(0)
REMOVED = np.uint64(1)  # no key has it: the fingerprint of an entry is odd

_BUCKET_SHIFT = np.uint64(32 - BUCKET_BITS)
_BUCKET_MASK = np.uint64(BUCKETS - 1)
_HALF = np.uint64(32)
_LOW = np.uint64((1 << 32) - 1)
_ONE = np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_AHEAD = 8  # rows that are on their way from memory while one is copied
_LINE = np.uint64(16)  # values of a cache line
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


@inlined
def _mixed(key: Any) -> Any:
    """As `headrace.parameters.keys.mix`."""
    z = key + _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@inlined
def _first_bucket(hashed: Any, directory: Indices) -> Any:
    segment = directory[np.int64(hashed & np.uint64(directory.size - 1))]
    return segment * BUCKETS + np.int64((hashed >> _BUCKET_SHIFT) & _BUCKET_MASK)


@compiled
def _search(entries: Entries, bucket: int, print_: Any, key: Any, keys_by_slot: Keys) -> int:
    """Return the place of a key's entry, from this bucket on; -1 if it has none."""
    while True:
        ends = False
        for lane in range(LANES):
            entry = entries[bucket, lane]
            if entry >> _HALF == print_ and keys_by_slot[np.int64(entry & _LOW) - 1] == key:
                return bucket * LANES + lane
            ends |= entry == EMPTY
        if ends:
            return -1
        bucket = (bucket & ~(BUCKETS - 1)) | ((bucket + 1) & (BUCKETS - 1))


@compiled
def locate(entries: Entries, directory: Indices, keys_by_slot: Keys, keys: Keys, places: Indices) -> None:
    """Write the place of each key's entry (8 bucket + lane), or -1, to `places`."""
    for i in range(keys.size):
        hashed = _mixed(keys[i])
        bucket = _first_bucket(hashed, directory)
        places[i] = _search(entries, bucket, (hashed >> _HALF) | _ONE, keys[i], keys_by_slot)


@compiled
def find(entries: Entries, directory: Indices, keys_by_slot: Keys, keys: Keys, slots: Indices) -> int:
    """Write the slot of each key, or -1, to `slots`; return how many are -1.

    In passes, each of which asks for the memory of the next: the buckets, the entry whose fingerprint fits, then its key.
    """
    flat, lanes = entries.reshape(-1), np.uint64(LANES)
    buckets = np.empty(keys.size, np.int64)
    prints = np.empty(keys.size, np.uint64)
    for i in range(keys.size):
        hashed = _mixed(keys[i])
        buckets[i] = _first_bucket(hashed, directory)
        prints[i] = (hashed >> _HALF) | _ONE
        prefetch(flat, np.uint64(buckets[i]) * lanes)
    for i in range(keys.size):
        start, found = np.uint64(buckets[i]) * lanes, np.uint64(0)
        for lane in range(lanes):
            entry = flat[start + lane]
            found = entry & _LOW if entry >> _HALF == prints[i] else found
        slots[i] = np.int64(found) - 1
        prefetch(keys_by_slot, np.uint64(max(slots[i], 0)))
    absent = 0
    for i in range(keys.size):
        if slots[i] >= 0 and keys_by_slot[np.uint64(slots[i])] == keys[i]:
            continue
        place = _search(entries, buckets[i], prints[i], keys[i], keys_by_slot)
        slots[i] = np.int64(entries[place // LANES, place % LANES] & _LOW) - 1 if place >= 0 else -1
        absent += place < 0
    return absent


@compiled
def insert(entries: Entries, directory: Indices, used: Indices, keys: Keys, slots: Indices) -> None:
    """Write an entry for each key, none of which has one; their segments have room."""
    for i in range(keys.size):
        hashed = _mixed(keys[i])
        bucket = _first_bucket(hashed, directory)
        entry = ((hashed >> _HALF) | _ONE) << _HALF | np.uint64(slots[i] + 1)
        lane = 0
        while entries[bucket, lane] > REMOVED:
            lane += 1
            if lane == LANES:
                lane = 0
                bucket = (bucket & ~(BUCKETS - 1)) | ((bucket + 1) & (BUCKETS - 1))
        if entries[bucket, lane] == EMPTY:
            used[bucket // BUCKETS] += 1
        entries[bucket, lane] = entry


@compiled
def remove(entries: Entries, used: Indices, places: Indices) -> None:
    """Take out the entries at these places."""
    for i in range(places.size):
        bucket, lane = places[i] // LANES, places[i] % LANES
        # A search ends at a bucket with an empty entry: in one without, an entry must stay, so that it does not end too early.
        ends = False
        for other in range(LANES):
            ends |= entries[bucket, other] == EMPTY
        entries[bucket, lane] = EMPTY if ends else REMOVED
        if ends:
            used[bucket // BUCKETS] -= 1


@compiled
def per_segment(directory: Indices, keys: Keys, counts: Indices) -> None:
    """Count how many of the keys belong to each segment."""
    for i in range(keys.size):
        counts[directory[np.int64(_mixed(keys[i]) & np.uint64(directory.size - 1))]] += 1


@compiled
def group(keys: Keys, groups: Indices, firsts: Indices) -> int:
    """Number the different keys in the order in which they come.

    Args:
        groups: Gets the number of each key.
        firsts: Gets the place of each number's first key.
    Returns:
        How many different keys there are.
    """
    size = 64
    while size < 2 * keys.size:
        size *= 2
    table = np.full(size, -1, np.int64)
    count = 0
    for i in range(keys.size):
        place = np.int64(_mixed(keys[i]) & np.uint64(size - 1))
        while table[place] >= 0 and keys[firsts[table[place]]] != keys[i]:
            place = (place + 1) & (size - 1)
        if table[place] < 0:
            table[place] = count
            firsts[count] = i
            count += 1
        groups[i] = table[place]
    return count


@compiled
def sum_groups(gradient: Floats, groups: Indices, total: Floats) -> None:
    """Add the rows of each group, in their order, to its row of `total`, shape (groups, dim)."""
    dim = np.uint64(gradient.shape[1])
    read, written = gradient.reshape(-1), total.reshape(-1)
    for i in range(groups.size):
        here, there = np.uint64(i) * dim, np.uint64(groups[i]) * dim
        for j in range(dim):
            written[there + j] += read[here + j]


@compiled
def gather(values: Floats, slots: Indices, out: Floats) -> None:
    """Copy the rows in `slots` to `out`; rows of slot -1 are left out."""
    dim = np.uint64(values.shape[1])
    read, written = values.reshape(-1), out.reshape(-1)
    for i in range(slots.size):
        if i + _AHEAD < slots.size:
            soon = np.uint64(max(slots[i + _AHEAD], 0)) * dim
            for j in range(np.uint64(0), dim, _LINE):
                prefetch(read, soon + j)
        if slots[i] >= 0:
            here, there = np.uint64(slots[i]) * dim, np.uint64(i) * dim
            for j in range(dim):
                written[there + j] = read[here + j]
