"""What is to become of a store, as all who take part in it know it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.parameters.layout import FlatLayout
from headrace.parameters.shard_map import ShardMap


@dataclass(frozen=True)
class Plan:
    """The change of a store's shards.

    Args:
        now, next: The maps, with addresses.
        coordinator: Which shard of `now` decides.
        replicas: Addresses of the replicas, by shard, of those that have one.
        terms: In which each shard of a replicated store is served.
    """

    now: ShardMap
    next: ShardMap
    coordinator: int
    layout: FlatLayout
    replicas: Mapping[int, str] = field(default_factory=dict)
    terms: Mapping[int, int] = field(default_factory=dict)

    @property
    def addresses(self) -> Mapping[int, str]:
        """Where the shards of both maps are, or their primaries."""
        return {**self.next.addresses, **self.now.addresses}
