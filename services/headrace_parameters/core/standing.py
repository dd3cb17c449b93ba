"""Where a shard is in a run, for whoever brings all shards of a store to one cut so that values can move between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.parameters.cut import Cut


@dataclass(frozen=True)
class Standing:
    """Where a shard is.

    Args:
        cut: As far as it goes by what it has taken: a complete step that waits for norms of the whole model counts.
        pending: BSP: the workers whose gradients for the step that is not complete it has.
    """

    cut: Cut
    pending: frozenset[int] = frozenset()


def complete_gradients(standings: Sequence[Standing]) -> frozenset[int]:
    """Return the workers whose gradients for the step that is not complete every one of the shards has.

    Only these are kept: a gradient that some shard lacks was not answered by all, and so its worker sends it again, to all.
    """
    return frozenset.intersection(*(standing.pending for standing in standings))
