"""Keys of rows, and the shard that each row lives on.

    keys = np.array([7, 7, 1 << 63], np.uint64)
    arc_owners(3)[arc_of(keys)]                # array([2, 2, 0])

The 2**64 values that `mix` gives are the ring of consistent hashing, cut into `ARCS` arcs of equal length (DeCandia et al. 2007, Dynamo,
section 6.2, strategy 3). A key belongs to the arc that its mixed value lies in, and never changes it; which shard has an arc is a table
with one entry per arc, so that rows move by arcs.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from headrace.errors import DtypeMismatch, InvalidArgument, ShapeMismatch

Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Arcs = npt.NDArray[np.bool_]  # whether each arc is meant, shape (`ARCS`,)

_ARC_BITS = 12
ARCS = 1 << _ARC_BITS  # with 64 shards they still differ by less than 2 % in size
MAX_SHARDS = ARCS
_MASK = (1 << 64) - 1


def as_keys(keys: npt.ArrayLike) -> Keys:
    """Return integers as keys, shape (n,); negative ones are taken as two's complement.

    Raises:
        DtypeMismatch: They are not integers.
        ShapeMismatch: They are not one row of them.
    """
    array = np.asarray(keys)
    if array.dtype.kind not in "iu":
        # numpy makes floats of nothing, and of lists in which some integers need all 64 bits and others have a sign.
        array = _of_integers(np.asarray(keys, object), array.dtype)
    if array.ndim != 1:
        raise ShapeMismatch(f"keys of shape {list(array.shape)} were given; they must have one dimension")
    return np.ascontiguousarray(
        array.astype(np.int64 if array.dtype.kind == "i" else np.uint64).view(np.uint64)
    )


def _of_integers(keys: "npt.NDArray[np.object_]", dtype: np.dtype[np.generic]) -> Keys:
    if not all(isinstance(key, int) for key in keys.flat):
        raise DtypeMismatch(f"keys of {dtype} were given; they must be integers")
    return np.array([int(key) & _MASK for key in keys.flat], np.uint64).reshape(keys.shape)


def mix(keys: Keys) -> Keys:
    """Return a number for each key in which every bit depends on every bit of the key; no two keys have the same.

    Source: SplitMix64, Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", with the constants of its
    reference code.
    """
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def arc_of(keys: Keys) -> Indices:
    """Return the arc of each key, 0 to `ARCS` - 1."""
    return (mix(keys) >> np.uint64(64 - _ARC_BITS)).astype(np.int64)


@lru_cache(maxsize=64)
def arc_owners(shard_count: int) -> Indices:
    """Return the shard of each arc, shape (`ARCS`,), for shards 0 to `shard_count` - 1.

    No two shards differ by more than one arc, and with one shard more only arcs that the new one gets change hands.

    Raises:
        InvalidArgument: There are more shards than arcs, or none.
    """
    if not 1 <= shard_count <= MAX_SHARDS:
        raise InvalidArgument(f"shard_count is {shard_count}; rows are spread over 1 to {MAX_SHARDS} shards")
    owners = np.zeros(ARCS, np.int64)
    for shard in range(1, shard_count):
        _let_in(owners, shard)
    owners.flags.writeable = False
    return owners


def _let_in(owners: Indices, new: int) -> None:
    """Give shard `new` its arcs: the last ones of each shard 0 to `new` - 1, of which the first ones keep the remainder."""
    each, remainder = divmod(ARCS, new + 1)
    kept = each + (np.arange(new) < remainder)
    order = np.argsort(owners, kind="stable")
    owned = owners[order]
    rank = np.arange(ARCS) - np.searchsorted(owned, owned)
    owners[order[rank >= kept[owned]]] = new


def spans_of(owners: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield consecutive arcs of one shard as one span: the first arc, one more than the last one, the shard."""
    start = 0
    for owner, run in groupby(owners):
        stop = start + sum(1 for _ in run)
        yield start, stop, owner
        start = stop


def arcs_of(spans: Iterable[tuple[int, int, int]]) -> tuple[int, ...]:
    """Return the shard of each arc, as `spans_of` gave them, in any order; nothing without spans.

    Raises:
        InvalidArgument: An arc is in no span, or in two.
    """
    owners: list[int] = []
    for start, stop, owner in sorted(spans):
        if start != len(owners) or not start < stop <= ARCS:
            raise InvalidArgument(
                f"a shard map has arcs {start} to {stop} where those from {len(owners)} on must follow; ask a shard for its map"
            )
        owners += [owner] * (stop - start)
    return tuple(owners)
