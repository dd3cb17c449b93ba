"""The gradient of a complete step that waits until the norm of the whole model's is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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


class Holding(Protocol):
    """A table whose complete step waits."""

    held: HeldRows | None

    def finish(self, weight: float) -> None:
        """Apply that step, times a weight."""


class ClippedTables:
    """Tables of one shard whose gradients are clipped with those of the dense values: `core.joint.ClippedRows`."""

    def __init__(self, tables: Mapping[str, Holding]) -> None:
        self._tables = tables

    def squared_norm(self) -> float | None:
        """Return that of the gradients of all tables, of a step that is complete; None: one's is not."""
        held = [table.held for table in self._tables.values()]
        return sum(each.squared_norm for each in held if each) if all(held) else None

    def finish(self, weight: float) -> None:
        """Apply the complete step of each table, times a weight."""
        for table in self._tables.values():
            table.finish(weight)
