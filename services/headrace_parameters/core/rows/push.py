"""What passes into a table: gradients of rows."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from headrace.errors import InvalidArgument, NonFiniteValues, ShapeMismatch
from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace_parameters.core.exchange import MOST_SAMPLES


@dataclass(frozen=True)
class RowPush:
    """One worker's gradient for some rows in one step; its memory is the table's from now on.

    Args:
        keys: Shape (n,), in any order; gradients of a key that is there more than once are summed.
        gradient: Shape (n, dim): of the mean loss over `samples` samples.
    Raises:
        ShapeMismatch: There are not as many gradients as keys.
        NonFiniteValues: The gradient holds a NaN or an infinity.
        InvalidArgument: `samples` is no weight.
    """

    worker: int
    step: int
    samples: float
    keys: Keys
    gradient: Floats
    generation: int = 0  # of the members among whom the worker computed it
    checked: bool = False  # whether the process that sent it has looked at it

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= MOST_SAMPLES:  # a NaN is within nothing
            raise InvalidArgument(f"samples is {self.samples}; it must be 0 to 2**53", field="header.samples")
        if self.gradient.ndim != 2 or len(self.gradient) != self.keys.size:
            raise ShapeMismatch(
                f"gradients of shape {list(self.gradient.shape)} came with {self.keys.size} keys; send one row for each"
            )
        if not self.checked:
            self._check_finite()

    def _check_finite(self) -> None:
        tensor = torch.from_numpy(self.gradient)
        # The sum is cheap, and finite only if all values are; large finite ones may overflow it.
        if math.isfinite(tensor.sum().item()) or torch.isfinite(tensor).all():
            return
        row = int(np.argmin(np.isfinite(self.gradient).all(axis=1)))
        raise NonFiniteValues(
            f"the gradient of worker {self.worker} for step {self.step} holds a NaN or an infinity in the row of key "
            f"{self.keys[row]}; nothing was applied: lower the learning rate or skip the batch",
            metadata={"key": int(self.keys[row])},
        )


@dataclass(frozen=True)
class TablePush:
    """A gradient for rows of a table of this name."""

    table: str
    push: RowPush

    @property
    def step(self) -> int:
        """The worker's."""
        return self.push.step
