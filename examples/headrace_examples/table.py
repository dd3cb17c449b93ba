"""A table of your own: a perceptron that tells classes apart, streamed from Parquet files however large they are.

    headrace train headrace_examples.table:Table mine --config folder=/data/mine --config features='["width", "height"]' \
        --config target=kind --config classes=3 --steps 1000 --batch-size 256

The folder holds the folders `train`, `validation` and `test` with Parquet files, at the same path on every node, or at a URL such as
s3://bucket/mine. Nothing but the rows of a few steps is in memory; see `headrace.data`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headrace.data import Dataset, parquet
from headrace.program import Examples, Goal, Split

Array = npt.NDArray[np.generic]


class Table:
    """Tell the class of a row.

    Args:
        folder: Where the three splits are: a path, or a URL.
        features: Columns of numbers.
        target: The column of the class: 0 to `classes` - 1.
        classes: How many there are.
        means, deviations: Of each feature in the train split; the model sees (value - mean) / deviation.
    """

    goal = Goal("accuracy", "max")

    def __init__(
        self,
        folder: str,
        features: Sequence[str],
        target: str,
        classes: int,
        means: Sequence[float] = (),
        deviations: Sequence[float] = (),
    ) -> None:
        self._folder, self._features, self._target, self._classes = folder, list(features), target, classes
        self._means = np.array(means or [0.0] * len(features), np.float32)
        self._deviations = np.array(deviations or [1.0] * len(features), np.float32)

    def model(self) -> nn.Module:
        """Return a perceptron with one hidden layer."""
        return nn.Sequential(nn.Linear(len(self._features), 64), nn.ReLU(), nn.Linear(64, self._classes))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy, in nats."""
        return nn.functional.cross_entropy(outputs, targets)

    def data(self, split: Split) -> Dataset:
        """Say where the split is, and how its rows become inputs."""
        place = f"{self._folder}/{split}"  # a folder, whose files are read in the order of their names
        return parquet(place, inputs={"input": self._features}, target=self._target).map(self._standardized)

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        """Return the share of rows told right."""
        return {"accuracy": float((np.asarray(outputs).argmax(1) == targets).mean())}

    def _standardized(self, batch: Examples) -> Examples:
        return Examples({"input": (batch.inputs["input"] - self._means) / self._deviations}, batch.targets)
