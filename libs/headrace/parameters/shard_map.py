"""Which shard holds which values of the flat vector, and who takes over what when shards come and go.

first = ShardMap.first(1000, 2)      # epoch 1: shard 0 holds range(0, 500), shard 1 range(500, 1000)
second = first.changed(add=[2])      # epoch 2: shard 2 holds a third, in a few ranges; nothing else has moved
second.held(2)

The vector is a ring of equal blocks, on which each shard has virtual nodes at hashes of its id. A block that must move goes to the
next virtual node whose shard has room: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018,
arXiv:1608.01350). The bound is the least there is, an equal share rounded up to a block, because the fullest shard decides how fast a
step is; and a block whose shard stays, and is not above its share, does not move. See docs/decisions/0023-shard-map.md.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import groupby, pairwise

import numpy as np

from headrace.errors import InvalidArgument, ShardMapChanged
from headrace.parameters.keys import ARCS, Indices, Keys, arc_of, arc_owners
from headrace.parameters.ranges import length

BLOCKS = 4096  # shares of up to 64 shards differ by at most 1/64; a block of 100M parameters is 24k values
VIRTUAL_NODES = 4  # of each shard: shares are equal without them, and each more is another range to copy


@dataclass(frozen=True)
class ShardMap:
    """Each value of the flat vector, in exactly one shard.

    Args:
        epoch: 1 for a store's first map, and one more for each that follows.
        size: Number of values N.
        blocks: Into how many blocks the vector is cut, 1 to N: block b has values floor(b N / blocks) to floor((b + 1) N / blocks).
        ranges: What each shard holds, by id: whole blocks, ascending, neighbours as one range; nothing if there are too few values.
        addresses: Where the shards are, by id; empty if whoever uses the store was told otherwise.
        arcs: The shard of each arc of keys, `ARCS` of them; empty: as `arc_owners` spreads them over the shards, in the order of their ids.
    Raises:
        InvalidArgument: A value is in no shard or in two, or a range is none of whole blocks; or an arc is in no shard.
    """

    epoch: int
    size: int
    blocks: int
    ranges: Mapping[int, tuple[range, ...]]
    addresses: Mapping[int, str] = field(default_factory=dict)
    arcs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.epoch < 1 or not 1 <= self.blocks <= self.size:
            raise InvalidArgument(
                f"a shard map has epoch {self.epoch} and {self.blocks} blocks of {self.size} values; 1 or more, and 1 to {self.size}"
            )
        place = 0
        for part in sorted(
            (part for held in self.ranges.values() for part in held), key=lambda part: part.start
        ):
            if part.start != place or not part or self._block_at(part.stop) is None:
                raise InvalidArgument(
                    f"a shard map has {part} where whole blocks from {place} on must follow; ask a shard for its map"
                )
            place = part.stop
        if place != self.size:
            raise InvalidArgument(
                f"a shard map ends at {place} of {self.size} values; ask a shard for its map"
            )
        if self.arcs and (len(self.arcs) != ARCS or not set(self.arcs) <= self.ranges.keys()):
            raise InvalidArgument(
                f"a shard map has {len(self.arcs)} arcs in shards {sorted(set(self.arcs))}; {ARCS} in its own must be: ask a shard for its map"
            )

    @classmethod
    def first(cls, size: int, count: int) -> "ShardMap":
        """Cut the vector evenly: shard i of `count` holds the values floor(i N / count) to floor((i + 1) N / count)."""
        blocks = min(size, count * -(-BLOCKS // count))
        cuts = [index * size // count for index in range(count + 1)]
        held = {index: (range(*cut),) if cut[0] < cut[1] else () for index, cut in enumerate(pairwise(cuts))}
        return cls(1, size, blocks, held)

    @cached_property
    def shards(self) -> tuple[int, ...]:
        """The ids of all shards, ascending."""
        return tuple(sorted(self.ranges))

    @cached_property
    def arc_owners(self) -> Indices:
        """The shard of each arc of keys, shape (`ARCS`,)."""
        return np.array(self.arcs or np.array(self.shards)[arc_owners(len(self.shards))], np.int64)

    def shard_of(self, keys: Keys) -> Indices:
        """Return the shard that holds the row of each key."""
        return self.arc_owners[arc_of(keys)]

    def held(self, shard: int) -> tuple[range, ...]:
        """Say which values a shard holds, ascending; none if the shard is not in the map."""
        return self.ranges.get(shard, ())

    def length(self, shard: int) -> int:
        """Say how many values a shard holds."""
        return length(self.held(shard))

    def fence(self, epoch: int) -> None:
        """Let only callers pass who go by this map; 0: by a first one.

        Raises:
            ShardMapChanged: They go by another.
        """
        if self.epoch != (epoch or 1):
            raise ShardMapChanged(
                f"the store has shard map {self.epoch}, the caller {epoch or 1}; nothing was applied: "
                "get the store, then repeat the call with its shard map",
                metadata={"map_epoch": self.epoch},
            )

    def changed(
        self,
        add: Collection[int] = (),
        remove: Collection[int] = (),
        addresses: Mapping[int, str] | None = None,
    ) -> "ShardMap":
        """Return the next map, for which as few blocks and arcs move as equal shares allow.

        Args:
            add: Ids of shards that are not in the map.
            remove: Ids of shards that are.
        Raises:
            InvalidArgument: There are other shards than that, or none would be left.
        """
        if set(add) & set(self.shards) or not set(remove) <= set(self.shards):
            raise InvalidArgument(
                f"shards {sorted(add)} cannot join, or {sorted(remove)} leave, shards {list(self.shards)}"
            )
        shards = sorted({*self.shards, *add} - {*remove})
        if not shards:
            raise InvalidArgument("no shard would be left; add one before you remove the last")
        owners = _settle(list(self._owners()), shards)
        return replace(
            self,
            epoch=self.epoch + 1,
            ranges=self._ranges(owners, shards),
            addresses=addresses or {},
            arcs=tuple(_settle(self.arc_owners.tolist(), shards)),
        )

    def renumbered(self) -> "ShardMap":
        """Return a first map with the same ranges and arcs, for shards 0, 1, 2, … in the order of their ids."""
        ranges = dict(enumerate(map(self.held, self.shards)))
        arcs = tuple(map(self.shards.index, self.arcs))
        return replace(self, epoch=1, ranges=ranges, addresses={}, arcs=arcs)

    def _edge(self, block: int) -> int:
        return block * self.size // self.blocks

    def _block_at(self, edge: int) -> int | None:
        """Return the block that begins at this value, if one does; `blocks` for the end."""
        block = -(-edge * self.blocks // self.size)
        return block if self._edge(block) == edge else None

    def _owners(self) -> Iterator[int]:
        """Yield the shard of each block."""
        spans = sorted((part.start, part.stop, shard) for shard, held in self.ranges.items() for part in held)
        for start, stop, shard in spans:
            first, last = self._block_at(start), self._block_at(stop)
            assert first is not None
            assert last is not None
            yield from [shard] * (last - first)

    def _ranges(self, owners: Sequence[int], shards: Sequence[int]) -> dict[int, tuple[range, ...]]:
        found: dict[int, list[range]] = {shard: [] for shard in shards}
        for shard, run in groupby(range(self.blocks), key=owners.__getitem__):
            blocks = list(run)
            found[shard].append(range(self._edge(blocks[0]), self._edge(blocks[-1] + 1)))
        return {shard: tuple(held) for shard, held in found.items()}


def _settle(owners: list[int], shards: Sequence[int]) -> list[int]:
    """Give every block a shard of `shards` so that none has more than its share."""
    room = _shares(owners, shards)
    room.subtract(owner for owner in owners if owner in room)
    blocks = len(owners)
    takers = [shard for shard in shards if room[shard] > 0]
    moves = (
        (min((node - block) % blocks for node in nodes), block, shard)
        for shard, nodes in ((shard, _virtual_nodes(shard, blocks)) for shard in takers)
        for block, owner in enumerate(owners)
        if owner not in room or room[owner] < 0
    )
    settled = list(owners)
    moved: set[int] = set()
    for _, block, shard in sorted(moves):  # the nearest first, so that what moves makes up long runs
        owner = owners[block]
        if block not in moved and room[shard] > 0 and (owner not in room or room[owner] < 0):
            settled[block] = shard
            moved.add(block)
            room[shard] -= 1
            if owner in room:
                room[owner] += 1
    return settled


def _shares(owners: Sequence[int], shards: Sequence[int]) -> Counter[int]:
    """Say how many blocks each shard shall have: equally many, and one more for those that have most now."""
    share, more = divmod(len(owners), len(shards))
    now = Counter(owners)
    fullest = sorted(shards, key=lambda shard: (-now[shard], shard))
    return Counter({shard: share + (place < more) for place, shard in enumerate(fullest)})


def _virtual_nodes(shard: int, blocks: int) -> list[int]:
    """Return the blocks at which a shard's virtual nodes are: the same in every process and version of Python."""
    hashes = (blake2b(b"%d/%d" % (shard, node), digest_size=8).digest() for node in range(VIRTUAL_NODES))
    return [int.from_bytes(found) * blocks >> 64 for found in hashes]
