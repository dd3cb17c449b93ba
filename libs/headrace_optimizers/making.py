"""From settings to the optimizer of a part of a flat vector."""

from collections.abc import Sequence

import torch

from headrace.parameters.layout import FlatLayout
from headrace.parameters.ranges import length
from headrace_optimizers.config import Lamb, Optimizer, Registered
from headrace_optimizers.fused import HOST, Allocate, FusedOptimizer, new_memory
from headrace_optimizers.lamb import LambOptimizer
from headrace_optimizers.registered import RegisteredOptimizer


def optimizer_for(
    config: Optimizer,
    layout: FlatLayout,
    held: Sequence[range],
    allocate: Allocate = new_memory,
    device: torch.device = HOST,
) -> FusedOptimizer:
    """Make the optimizer of the values `held` of a vector.

    Args:
        layout: The whole vector's.
        allocate, device: As for `FusedOptimizer`.
    """
    if isinstance(config, Lamb):
        return LambOptimizer(config, layout, held, allocate, device)
    if isinstance(config, Registered):
        return RegisteredOptimizer(config, length(held), allocate, device)
    return FusedOptimizer(config, length(held), allocate, device)
