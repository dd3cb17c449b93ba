"""A moment of a run that all shards of a store can stop at: a consistent cut (Chandy and Lamport 1985)."""

from collections.abc import Mapping, Sequence

# Each worker's next step: every push before it is in, none from it on. BSP: the version, for all workers alike.
Cut = Mapping[int, int]


def latest(cuts: Sequence[Cut]) -> dict[int, int]:
    """Return the first cut that no shard is beyond: how far each worker has come on any of them.

    Whatever lies before it is on its way to every shard, because a worker sends a gradient to all of them and repeats what was not answered.
    """
    return {worker: max(cut.get(worker, 0) for cut in cuts) for cut in cuts for worker in cut}


def behind(position: Cut, cut: Cut) -> list[int]:
    """Return the workers whose pushes are missing on a shard at `position` that shall come to `cut`."""
    return sorted(worker for worker, step in position.items() if step < cut.get(worker, 0))
