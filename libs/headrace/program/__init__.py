"""How a user brings a model: a `Program`, a small class in the user's own Python file.

    class Digits:
        goal = Goal("accuracy", "max")
        def model(self): return torch.nn.Sequential(...)
        def loss(self, outputs, targets): return torch.nn.functional.cross_entropy(outputs, targets)
        def data(self, split): return Examples({"input": images}, labels)
        def metrics(self, outputs, targets): return {"accuracy": float((outputs.argmax(1) == targets).mean())}

("input" is what `Sequential.forward` calls its argument.)

Training, optimization and `headrace demo` ask nothing else of it. This module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from headrace.data import Dataset

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Goal:
    """The metric that decides whether a model is good.

    `metric` is a key of what `Program.metrics` returns; `best` says whether larger or smaller values are better.
    """

    metric: str
    best: Literal["max", "min"]

    def drop(self, reference: float, value: float) -> float:
        """Return how much worse `value` is than `reference`; negative when it is better."""
        return reference - value if self.best == "max" else value - reference


@dataclass(frozen=True)
class Examples:
    """A split of the data, in memory, or a part of one. The first axis of every array counts examples and has the same length.

    `inputs` maps each argument name of the model's `forward` to its array, in the order of the arguments; these names become the
    inputs of the served model. `targets` is what the loss and the metrics compare the outputs with.
    """

    inputs: Mapping[str, np.ndarray[Any, Any]]
    targets: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.targets)


@runtime_checkable
class Program(Protocol):
    """What headrace asks of a user's model. Every method must give the same answer each time it is called."""

    goal: Goal

    def model(self) -> torch.nn.Module:
        """Return a new model. Its `forward` takes the inputs by name and returns one tensor whose first axis is the batch.

        Initial values come from torch's global generator, which headrace seeds. Parameters must be float32.
        """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the batch, a scalar."""

    def data(self, split: Split) -> Examples | Dataset:
        """Return a split, or say where it lies with `headrace.data`. The three must be disjoint."""

    def metrics(self, outputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> Mapping[str, float]:
        """Return named measures over a whole split, `goal.metric` among them. Called on arrays, so that the served model is measured alike."""
