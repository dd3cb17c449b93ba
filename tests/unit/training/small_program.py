"""A program small enough for a test, and mistakes to make with it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headrace.program import Examples, Goal, Split

Array = npt.NDArray[Any]


class Small:
    """Tell whether four numbers have a positive sum; 50 rows to train with."""

    goal = Goal("accuracy", "max")

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def data(self, split: Split) -> Examples:
        generator = np.random.default_rng({"train": 1, "validation": 2, "test": 3}[split])
        rows = generator.normal(size=(50, 4)).astype(np.float32)
        return Examples({"input": rows}, (rows.sum(1) > 0).astype(np.int64))

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).mean())}
