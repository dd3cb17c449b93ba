"""What a user's own update must be: see `rule_check` for what is tried before it is used, and docs/parameters.md for an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch  # a process that only reads the settings of optimizers does without


class UpdateRule(Protocol):
    """How gradients change values, each value by itself: parts of a vector are updated by different processes.

    `state` names vectors that are kept for every value, with what they begin with.
    """

    state: Mapping[str, float]

    def apply(
        self,
        values: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        step: int,
        learning_rate: float,
    ) -> None:
        """Change `values` and the vectors of `state` in place.

        Args:
            values, gradient: Shape (n,), float32, any part of the model; the vectors of `state` have the same shape.
            step: 1 in the store's first update, then 2, 3, ...
            learning_rate: Of this step, by the schedule.
        """
