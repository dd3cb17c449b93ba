"""One step of an optimizer, ready to be done."""

from collections.abc import Callable, Sequence

import torch

from headrace_optimizers.clipping import clip_factor, squared_norm
from headrace_optimizers.fused import FusedOptimizer
from headrace_optimizers.lamb import LambOptimizer

# From values, shape (n,), and a factor of the learning rate to new values in memory of their own.
Update = Callable[[torch.Tensor, float], torch.Tensor]


def whole(
    optimizer: FusedOptimizer,
    gradients: Sequence[tuple[torch.Tensor, float]],
    tensor_norms: Sequence[float] | None = None,
) -> Update | None:
    """Return the update with the weighted sum of gradients; None without any.

    Args:
        tensor_norms: LAMB: of the whole model; None: the values are the whole model.
    """
    if not gradients:
        return None
    if isinstance(optimizer, LambOptimizer):
        return lambda values, factor: optimizer.apply(values, gradients, factor, tensor_norms)
    return lambda values, factor: optimizer.apply(values, gradients, factor)


def partial(
    optimizer: FusedOptimizer, means: Sequence[tuple[range, torch.Tensor]], maximum_norm: float
) -> Update | None:
    """Return the update of some values; None without any.

    Args:
        means: Where, and the gradient there.
        maximum_norm: The gradient, 0 elsewhere, is scaled down to this norm; 0: it is not.
    """
    if not means:
        return None
    weight = clip_factor(sum(squared_norm(mean) for _, mean in means), maximum_norm) if maximum_norm else 1.0
    scaled = [(part, mean if weight == 1 else mean * weight) for part, mean in means]
    return lambda values, factor: optimizer.apply_parts(values, scaled, factor)
