"""Programs that training workers run in tests; the module is on the allow-list of the workers."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headrace.program import Examples, Goal, Split
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowAdagrad, RowSgd
from headrace_optimizers.row_initializer import Normal

Array = npt.NDArray[Any]


class Small:
    """Tell whether four numbers have a positive sum."""

    goal = Goal("accuracy", "max")

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(4, 2)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def data(self, split: Split) -> Examples:
        generator = np.random.default_rng({"train": 1, "validation": 2, "test": 3}[split])
        rows = generator.normal(size=(50, 4)).astype(np.float32)
        return Examples({"input": rows}, (rows.sum(1) > 0).astype(np.int64))

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).mean())}


class Layered(Small):
    """Has blocks, of which a part is as many ranks' as there are."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


class Peaking(Small):
    """Is measured best by its third evaluation in a process, then worse and worse."""

    def __init__(self) -> None:
        self._evaluations = 0

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        self._evaluations += 1
        return {"accuracy": 1 - abs(self._evaluations - 3) / 100}


class Slow(Small):
    """Takes its time for every step, so that a test can come in between."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        threading.Event().wait(0.05)
        return super().loss(outputs, targets)


class SlowPeaking(Peaking, Slow):
    """Is both."""


class RaisingOnOdd(Small):
    """Raises on a rank that has 7 examples: of batches of 15, the second of two."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(targets) == 7:
            raise KeyError("row 17 has no label")
        return super().loss(outputs, targets)


class Raising(Small):
    """Raises in the third step."""

    def __init__(self) -> None:
        self._calls = 0

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        if self._calls == 3:
            raise KeyError("row 17 has no label")
        return super().loss(outputs, targets)


class Exploding(Small):
    """Has a loss that is not a number."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().loss(outputs, targets) * float("nan")


class Keyed(Small):
    """Tell which of two groups of keys an example has more of; the rows of the keys are in tables."""

    def model(self) -> torch.nn.Module:
        return Bag()

    def data(self, split: Split) -> Examples:
        generator = np.random.default_rng({"train": 4, "validation": 5, "test": 6}[split])
        keys = generator.integers(-60, 60, (80, 5))
        return Examples({"keys": keys}, ((keys > 0).sum(1) > 2).astype(np.int64))


class Bag(torch.nn.Module):
    """The mean of some rows, and a row that all share."""

    def __init__(self, max_rows: int = 90) -> None:
        super().__init__()
        optimizer, initializer = RowAdagrad(0.1, epsilon=1e-3), Normal(0, 0.5, seed=2)
        self.words = EmbeddingTable(
            "words", 3, optimizer=optimizer, initializer=initializer, max_rows=max_rows
        )
        self.shared = EmbeddingTable("shared", 2, optimizer=RowSgd(0.05))
        self.output = torch.nn.Linear(3, 2)

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.output(self.words(keys).mean(1)) + self.shared(keys[:, 0] * 0)
        return outputs


class SlowKeyed(Keyed, Slow):
    """Is both."""


class SlowUnbounded(SlowKeyed):
    """Forgets no row: which ones are forgotten depends on the shards there are."""

    def model(self) -> torch.nn.Module:
        return Bag(max_rows=0)


class LayeredPeaking(Layered, Peaking):
    """Is both."""


class LayeredSlow(Layered, Slow):
    """Is both."""


class LayeredNotFinite(Layered):
    """Has a loss that is no number on a rank that has 7 examples."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return super().loss(outputs, targets) * (float("nan") if len(targets) == 7 else 1.0)
