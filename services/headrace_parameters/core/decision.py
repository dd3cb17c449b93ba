"""How a shard that has staged, and heard nothing since, tells from another shard's map what was decided.

No decision is logged: the map is the decision. A coordinator that was killed before it had changed to the next map comes back with the old one, and
so has given up: "presumed abort" (Mohan, Lindsay, Obermarck 1986). Of a replicated coordinator both processes have staged, and the replica
changes first. So whoever serves that shard in a later term, and has not changed, knows that nobody has: the other one is told nothing any more.
"""

from headrace.parameters.shard_map import ShardMap


def decided(shard: int, now: ShardMap, following: ShardMap, found: ShardMap, making: int) -> bool | None:
    """Say whether `following` holds; None: the one that was asked does not know either.

    Whoever has staged knows that all shards of both maps were held for `following`. One that has the old map, and makes none, has
    given up, so that the coordinator can never have had the votes of all; and nothing comes after the old map without all shards of it.

    Args:
        shard: Who asks.
        now, following: The maps before and after the change that it has staged.
        found: The map of another shard of the two.
        making: The epoch of the map that this one is held for; 0: none.
    """
    if found.epoch == following.epoch:
        return found.ranges == following.ranges
    if (
        found.epoch > following.epoch
    ):  # what came after it came without who asks: it has left by then, or never came in
        return shard in now.shards or shard in found.shards
    return None if making == following.epoch else False
