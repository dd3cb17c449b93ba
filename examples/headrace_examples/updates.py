"""An optimizer of one's own, for `--optimizer registered --update headrace_examples.updates:Lion`."""

from collections.abc import Mapping

import torch


class Lion:
    """Steps of one size, in the direction of a mean of gradients (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    The operator allows it with HEADRACE_PARAMETERS_ALLOWED_UPDATES=headrace_examples.
    """

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> None:
        self.state = {"momentum": 0.0}  # a vector of zeros, as long as the values
        self._beta1, self._beta2, self._weight_decay = beta1, beta2, weight_decay

    def apply(
        self,
        values: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        step: int,  # noqa: ARG002 - Lion corrects no bias
        learning_rate: float,
    ) -> None:
        """Change `values` and the state in place; every tensor has the same shape (n,)."""
        momentum = state["momentum"]
        direction = torch.lerp(gradient, momentum, self._beta1).sign_()
        values.mul_(1 - learning_rate * self._weight_decay)
        values.add_(direction, alpha=-learning_rate)
        momentum.lerp_(gradient, 1 - self._beta2)
