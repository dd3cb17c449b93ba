"""A step that waits until the norm of the whole gradient, of which each shard has a part, is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from headrace_optimizers.clipping import squared_norm


@dataclass(frozen=True)
class Measured:
    """The squared norm of this shard's part of the mean gradient of the last complete step."""

    step: int
    squared_norm: float


@dataclass(frozen=True)
class HeldStep:
    """A complete step that waits for the norm of the whole gradient.

    Args:
        steps: The step that each of its workers pushed.
        mean: Shape (shard's length,); None if the step has no samples.
    """

    steps: Mapping[int, int]
    mean: torch.Tensor | None
    squared_norm: float


def hold(steps: Mapping[int, int], gradients: Sequence[tuple[torch.Tensor, float]]) -> HeldStep:
    """Sum weighted gradients up, in memory of its own, and measure the sum."""
    if not gradients:
        return HeldStep(steps, None, 0.0)
    (first, weight), *others = gradients
    mean = first * weight
    for gradient, share in others:
        mean.add_(gradient * share)
    return HeldStep(steps, mean, squared_norm(mean))
