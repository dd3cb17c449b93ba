"""Pushes of a part of the values: each value's mean is over the workers whose pushes cover it, and what nobody covers stays as it is."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from headrace.errors import FailedPrecondition, ShapeMismatch
from headrace.parameters.ranges import length, shared
from headrace_optimizers.config import Lamb
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.exchange import Push


def check_shape(config: StoreConfig, push: Push, size: int, *, rows: bool = False) -> None:
    """Check that a gradient has as many values as it must, and that a shard of `size` values can take a part.

    Args:
        rows: It is clipped with the gradients of rows.
    Raises:
        ShapeMismatch: It has others.
        FailedPrecondition: The store takes whole gradients alone.
    """
    expected = size if push.covers is None else length(push.covers)
    if push.gradient.shape != (expected,):
        what = "this shard holds" if push.covers is None else "the push covers here"
        raise ShapeMismatch(f"the gradient has {push.gradient.size} values; {what} {expected}")
    if push.covers is not None and (rows or config.joint_norms or isinstance(config.optimizer, Lamb)):
        raise FailedPrecondition(
            f"{config.name} scales whole tensors, or clips over several shards or with tables, so a push covers all values; push the "
            "others with zeros, or use another store"
        )


def is_partial(pushes: Mapping[int, Push]) -> bool:
    """Tell whether any of them covers a part only."""
    return any(push.covers is not None for push in pushes.values())


def means(pushes: Mapping[int, Push], size: int) -> list[tuple[range, torch.Tensor]]:
    """Return where values get an update, in ascending order, and the mean gradient there.

    The mean of a value is weighted by the samples of the pushes that cover it; a push without samples covers nothing.

    Args:
        pushes: By worker.
        size: Values of the shard.
    """
    # In the order of the workers, not of arrival: sums of floats depend on it, and a run must be repeatable.
    ordered = [(_covers(push, size), push) for _, push in sorted(pushes.items()) if push.samples > 0]
    edges = sorted({edge for covers, _ in ordered for part in covers for edge in (part.start, part.stop)})
    found = ((range(*between), _mean(range(*between), ordered)) for between in pairwise(edges))
    return [(part, mean) for part, mean in found if mean is not None]


def _covers(push: Push, size: int) -> Sequence[range]:
    return [range(size)] if push.covers is None else push.covers


def _mean(part: range, ordered: Sequence[tuple[Sequence[range], Push]]) -> torch.Tensor | None:
    """Return the mean over the pushes that cover `part`, all of it or nothing of it each."""
    there = [
        (torch.from_numpy(push.gradient[place.first : place.first + len(part)]), push.samples)
        for covers, push in ordered
        for place in shared(covers, [part])
    ]
    if not there:
        return None
    total = sum(samples for _, samples in there)
    (first, samples), *others = there
    mean = first * (samples / total)
    for gradient, more in others:
        mean.add_(gradient * (more / total))
    return mean
