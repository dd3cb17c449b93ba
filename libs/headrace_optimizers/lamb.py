"""LAMB: Adam's direction, scaled for each tensor by the norm of its values (You et al. 2020, arXiv:1904.00962, algorithm 2).

For one tensor x with gradient g, in step t = 1, 2, ...:

    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
    u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay x
    x = x - learning_rate (|x| / |u|) u        with 1 for |x| / |u| where either is 0

This is AdamW with a learning rate of its own for each tensor, and so it is computed: by the same fused kernel. A step passes over memory
twice, first for the norms, which changes nothing, then for the update; between the two, parts of a vector can add up their norms.
"""

import math
from collections.abc import Sequence

import torch

from headrace.parameters.layout import FlatLayout
from headrace.parameters.ranges import length
from headrace_optimizers.clipping import squared_norm
from headrace_optimizers.config import Lamb
from headrace_optimizers.fused import HOST, Allocate, FusedOptimizer, add_up, new_memory
from headrace_optimizers.kernels import step

_BLOCK = 1 << 16  # values at a time: all that a block needs stays in a core's own cache


class LambOptimizer(FusedOptimizer):
    """LAMB of the values that lie in some ranges of a flat vector.

    Norms are told as two numbers for each tensor of the layout, in its order: the squared norm of its values, and that of u. Those of
    all parts of a vector add up to those of the whole.

    Args:
        layout: The whole vector's.
        held: Which of its values these are.
        allocate, device: As for `FusedOptimizer`.
    """

    def __init__(
        self,
        config: Lamb,
        layout: FlatLayout,
        held: Sequence[range],
        allocate: Allocate = new_memory,
        device: torch.device = HOST,
    ) -> None:
        super().__init__(config, length(held), allocate, device)
        self._lamb = config
        self._count = len(layout.tensors)
        self._parts = layout.parts(held)
        self._scratch = [torch.empty(_BLOCK, device=device) for _ in range(2)]
        self._total = torch.empty(self._size, device=device)

    def squared_norms(
        self, values: torch.Tensor, gradients: Sequence[tuple[torch.Tensor, float]]
    ) -> list[float]:
        """Return the norms of the values and of u, as a step with these gradients would have them.

        Args:
            values, gradients: As for `apply`; no gradient has no norms, all are 0.
        """
        if not gradients:
            return [0.0] * (2 * self._count)
        return self._norms(values, self._sum(gradients))

    def apply(
        self,
        values: torch.Tensor,
        gradients: Sequence[tuple[torch.Tensor, float]],
        factor: float = 1.0,
        squared_norms: Sequence[float] | None = None,
    ) -> torch.Tensor:
        """Do one step with the weighted sum of gradients.

        Args:
            values, gradients, factor: As for every optimizer.
            squared_norms: Those of the whole vector; None: what is held here is the whole vector.
        Returns:
            The new values, shape (size,), in memory of their own.
        """
        total = self._sum(gradients)
        norms = self._norms(values, total) if squared_norms is None else squared_norms
        new = self.hold(values)
        state = self._begun()
        for index, part in self._parts:
            place = slice(part.start, part.stop)
            rate = self._lamb.learning_rate * factor * trust_ratio(*norms[2 * index : 2 * index + 2])
            step(self._lamb, new[place], total[place], state, place, rate)
        state["step"] += 1
        return new[: self._size]

    def _norms(self, values: torch.Tensor, total: torch.Tensor) -> list[float]:
        norms = [0.0] * (2 * self._count)
        for index, part in self._parts:
            for start in range(part.start, part.stop, _BLOCK):
                place = slice(start, min(start + _BLOCK, part.stop))
                norms[2 * index] += squared_norm(values[place])
                norms[2 * index + 1] += squared_norm(self._direction(values, total, place))
        return norms

    def _direction(self, values: torch.Tensor, total: torch.Tensor, place: slice) -> torch.Tensor:
        """Return u of one block; it is valid until the next call."""
        config, state = self._lamb, self._begun()
        step = state["step"].item() + 1
        u, root = (memory[: place.stop - place.start] for memory in self._scratch)
        gradient = total[place]
        torch.mul(state["exp_avg_sq"][place], config.beta2, out=root)
        root.addcmul_(gradient, gradient, value=1 - config.beta2)
        root.div_(1 - config.beta2**step).sqrt_().add_(config.epsilon)
        torch.lerp(state["exp_avg"][place], gradient, 1 - config.beta1, out=u)
        u.div_(1 - config.beta1**step).div_(root)
        return u.add_(values[place], alpha=config.weight_decay)

    def _sum(self, gradients: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
        """Return the weighted sum of gradients, shape (size,); it is valid until the next call."""
        (only, weight), *others = gradients
        if not others and weight == 1:
            return only
        for start in range(0, self._size, _BLOCK):
            place = slice(start, min(start + _BLOCK, self._size))
            add_up(gradients, place, self._total[place], self._scratch[0])
        return self._total


def trust_ratio(squared_values: float, squared_update: float) -> float:
    """Return |x| / |u|, and 1 where either is 0."""
    if not (squared_values and squared_update):
        return 1.0
    return math.sqrt(squared_values) / math.sqrt(squared_update)
