"""The gradient of a complete step that waits until the norm of the whole model's is known."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace_optimizers.clipping import squared_norm


@dataclass(frozen=True)
class HeldRows:
    """The mean gradient of one table's rows here.

    Args:
        steps: The step that each of its workers pushed.
        keys: Shape (n,), all different.
        mean: Shape (n, dim).
    """

    steps: Mapping[int, int]
    keys: Keys
    mean: Floats

    @property
    def squared_norm(self) -> float:
        """That of the mean."""
        return squared_norm(torch.from_numpy(self.mean))

    def weighted(self, weight: float) -> Floats:
        """Return the mean times a weight."""
        return self.mean if weight == 1.0 else self.mean * np.float32(weight)
