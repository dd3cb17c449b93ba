"""One and the same point of a run for all shards of a store, so that values can move between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_parameters.core.config import Consistency


@dataclass(frozen=True)
class Standing:
    """Where a shard is.

    Args:
        version: BSP: its version, or one more if a complete step waits for norms of the whole model.
        clocks: Each worker's next step.
        pending: BSP: the workers whose gradients for the step that is not complete it has.
    """

    version: int
    clocks: Mapping[int, int]
    pending: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Boundary:
    """The point up to which shards take gradients: what another shard has applied, each shard shall apply, and nothing else.

    That much is on its way, because a worker sends a gradient to all shards and repeats what was not answered.

    Args:
        version: BSP: steps before this one.
        clocks: SSP and ASYNC: each worker's steps before its own.
    """

    version: int
    clocks: Mapping[int, int]

    @classmethod
    def of(cls, standings: Sequence[Standing]) -> "Boundary":
        """Return the furthest point that any of the shards, one or more, has reached."""
        clocks: dict[int, int] = {}
        for standing in standings:
            clocks |= {worker: max(clock, clocks.get(worker, 0)) for worker, clock in standing.clocks.items()}
        return cls(max(standing.version for standing in standings), clocks)

    def admits(self, consistency: Consistency, worker: int, step: int) -> bool:
        """Tell whether a shard may take this worker's gradient."""
        return step < (self.version if consistency is Consistency.BSP else self.clocks.get(worker, 0))

    def is_reached(self, consistency: Consistency, version: int, clocks: Mapping[int, int]) -> bool:
        """Tell whether a shard that has applied so much is there."""
        if consistency is Consistency.BSP:
            return version >= self.version
        return all(clocks.get(worker, 0) >= wanted for worker, wanted in self.clocks.items())


def complete_gradients(standings: Sequence[Standing]) -> frozenset[int]:
    """Return the workers whose gradients for the step that is not complete every one of the shards has.

    Only these are kept: a gradient that some shard lacks was not answered by all, and so its worker sends it again, to all.
    """
    return frozenset.intersection(*(standing.pending for standing in standings))
