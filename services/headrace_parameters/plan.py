"""What is to become of a store, as all who take part in it know it."""

from dataclasses import dataclass

from headrace.parameters.layout import FlatLayout
from headrace.parameters.shard_map import ShardMap


@dataclass(frozen=True)
class Plan:
    """The change of a store's shards.

    Args:
        now, next: The maps, with addresses.
        coordinator: Which shard of `now` decides.
    """

    now: ShardMap
    next: ShardMap
    coordinator: int
    layout: FlatLayout
