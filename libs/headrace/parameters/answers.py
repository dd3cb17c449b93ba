"""What a shard answers, and what all shards of a store together do."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.parameters.layout import Floats


@dataclass(frozen=True)
class Received:
    """What a shard says of the values it sent: their version, and how many steps the slowest worker is behind in them."""

    version: int
    staleness: int
    next_step: int = 0  # of a push_pull alone: the next step whose gradient the shard takes


@dataclass(frozen=True)
class Pulled:
    """Values of a store.

    `version` is that of the values; where the shards' versions differ, as under ASYNC, it is the smallest.
    `values` has shape (N,), or as many as the tensors asked for have.
    `staleness`: how many steps the slowest worker's contribution is behind the step they are for, on the stalest shard.
    `next_step`, after a push_pull: the step to compute with them, usually one more than was pushed.
    """

    version: int
    values: Floats
    staleness: int = 0
    next_step: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Where a store was saved: one artifact name per shard, in their order, and the (smallest) version in them."""

    version: int
    artifacts: tuple[str, ...]


def summed_up(received: Sequence[Received], values: Floats) -> Pulled:
    """Sum up what all shards said of the values they sent."""
    return Pulled(
        version=min(shard.version for shard in received),
        values=values,
        staleness=max(shard.staleness for shard in received),
        next_step=min(shard.next_step for shard in received),
    )
