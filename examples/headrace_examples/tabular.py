"""Tabular data: a perceptron that tells benign from malignant on the 569 rows of breast cancer data of scikit-learn.

    headrace train headrace_examples.tabular:BreastCancer

Data: W. Wolberg et al. (1995), Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning Repository.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headrace.program import Examples, Goal, Split
from headrace_examples import bundled
from headrace_examples.splits import stratified

Array = npt.NDArray[np.generic]
_FEATURES = 30


class Perceptron(nn.Module):
    """Two hidden layers: (N, 30) standardized features to (N, 2) logits."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_FEATURES, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of malignant and benign."""
        logits: torch.Tensor = self.layers(features)
        return logits


class BreastCancer:
    """Tell benign (1) from malignant (0) by measures of cell nuclei.

    Args:
        hidden: Width of both hidden layers.
    """

    goal = Goal("accuracy", "max")

    def __init__(self, hidden: int = 64) -> None:
        self._hidden = hidden

    def model(self) -> nn.Module:
        """Return the perceptron."""
        return Perceptron(self._hidden)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy, in nats, against smoothed targets: 397 rows are soon fitted by heart."""
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    def data(self, split: Split) -> Examples:
        """Return features of shape (N, 30), float32, and classes of shape (N,), int64.

        Mean and deviation of the *train* split standardize all splits: the others must not leak into training.
        """
        rows, classes = bundled.breast_cancer()
        train = rows[stratified(classes, "train")]
        chosen = stratified(classes, split)
        features = ((rows[chosen] - train.mean(0)) / train.std(0)).astype(np.float32)
        return Examples({"features": features}, classes[chosen].astype(np.int64))

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        """Return the share of rows told right, and the share of malignant ones that were found."""
        told = np.asarray(outputs).argmax(1)
        return {
            "accuracy": float((told == targets).mean()),
            "malignant_recall": float((told[targets == 0] == 0).mean()),
        }
