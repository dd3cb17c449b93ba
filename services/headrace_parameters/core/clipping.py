"""Clipping by the norm of the whole gradient, of which each shard has a part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


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
    # In float64: the sum over the shards is then the same to far below 1e-6, however the vector is cut.
    norm = torch.linalg.vector_norm(mean, dtype=torch.float64).item()
    return HeldStep(steps, mean, norm * norm)


def clip_factor(squared_norm: float, maximum: float) -> float:
    """Return what a gradient of this norm is multiplied with so that its norm is at most about `maximum`."""
    return min(1.0, maximum / (math.sqrt(squared_norm) + _EPSILON))
