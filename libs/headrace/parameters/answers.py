"""What a shard answers, and what all shards of a store together do."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.parameters.layout import Floats


@dataclass(frozen=True)
class Mark:
    """What tells values of one shard from all others: `incarnation` changes when they are replaced otherwise than by updates."""

    version: int
    incarnation: int


@dataclass(frozen=True)
class Received:
    """What a shard says of the values it sent: their version, and how many steps the slowest worker is behind in them."""

    version: int
    staleness: int
    next_step: int = 0  # of a push_pull alone: the next step whose gradient the shard takes
    incarnation: int = 0
    modified: bool = True  # False: they are the ones that were known, and were not sent
    term: int = 0  # of the primary that answered, if the store is replicated

    @property
    def mark(self) -> Mark | None:
        """How to ask whether there are newer ones; None: the shard does not know itself."""
        return Mark(self.version, self.incarnation) if self.incarnation else None


@dataclass(frozen=True)
class Pulled:
    """Values of a store.

    `version` is that of the values; where the shards' versions differ, as under ASYNC, it is the smallest.
    `values` has shape (N,), or as many as the tensors asked for have.
    `staleness`: how many steps the slowest worker's contribution is behind the step they are for, on the stalest shard.
    `next_step`, after a push_pull: the step to compute with them, usually one more than was pushed.
    `modified`: False if a pull asked for newer values than it knew, and there were none.
    `marks` is for `newer_than`: what tells the values of each shard, under the shard map with this epoch.
    """

    version: int
    values: Floats
    staleness: int = 0
    next_step: int = 0
    modified: bool = True
    marks: tuple[Mark | None, ...] = ()
    map_epoch: int = 0


@dataclass(frozen=True)
class Place:
    """One of `count` places of a generation, counted from 0.

    `step` is the one to compute with the values that came with the place; 0 where the store leaves that to the worker (SSP, ASYNC).
    """

    index: int = 0
    count: int = 1
    generation: int = 0
    step: int = 0

    @property
    def leads(self) -> bool:
        """Whether it is the first: one worker does what is to be done once."""
        return self.index == 0


@dataclass(frozen=True)
class Snapshot:
    """Where a store was saved: one artifact name per shard, in their order, and the (smallest) version in them.

    `consistent`: All shards have the same pushes. If not, a worker was gone whose last push had reached some of them alone.
    """

    version: int
    artifacts: tuple[str, ...]
    consistent: bool = True


def summed_up(received: Sequence[Received], values: Floats, map_epoch: int = 0) -> Pulled:
    """Sum up what all shards said of the values they sent."""
    return Pulled(
        version=min(shard.version for shard in received),
        values=values,
        staleness=max(shard.staleness for shard in received),
        next_step=min(shard.next_step for shard in received),
        modified=any(shard.modified for shard in received),
        marks=tuple(shard.mark for shard in received),
        map_epoch=map_epoch,
    )
