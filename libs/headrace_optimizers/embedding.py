"""A table as a layer of a model: for training loops of one's own, whose dense parameters go through a `ShardedStore` beside it.

    users = EmbeddingTable(tables, "users")
    for step, (keys, targets) in enumerate(batches):
        loss = model(users(keys), targets)              # pulls the rows of the batch
        loss.backward()
        users.push(samples=len(targets))                # pushes their gradients
        values = store.push_pull(step, gradient, samples=len(targets)).values

The rows of a batch are all that is ever in the worker's memory.
"""

from typing import cast

import numpy as np
import torch

from headrace.parameters.keys import Keys
from headrace.parameters.tables import ShardedTables


class EmbeddingTable(torch.nn.Module):
    """Rows by key, shape (*keys.shape, dim). It has no parameters of its own: `push` takes the place of an optimizer's step.

    Args:
        tables: The store's, as this worker uses it.
        table: Which.
        step: The first step to compute.
    """

    def __init__(self, tables: ShardedTables, table: str, step: int = 0) -> None:
        super().__init__()
        self.step = step
        self._tables = tables
        self._table = table
        self._used: list[tuple[Keys, torch.Tensor]] = []

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        """Pull the rows of `keys`, int64 of any shape, as soon as they may be used for `step`.

        With gradients on, each call is remembered until `push`; any number of them, as for micro-batches, make one step.
        """
        unique, places = np.unique(keys.detach().numpy().reshape(-1), return_inverse=True)
        rows = torch.from_numpy(self._tables.pull_rows(self._table, unique, step=self.step).values)
        if torch.is_grad_enabled():
            rows.requires_grad_()
            self._used.append((unique.view(np.uint64), rows))
        chosen = rows.index_select(0, torch.from_numpy(places.reshape(-1)))
        return chosen.reshape(*keys.shape, rows.shape[1])

    def push(self, samples: float) -> int:
        """Push the gradients of all rows that were used since the last push, and go on to the next step.

        Once in each step, also in one in which this worker used no row.

        Args:
            samples: The gradient's weight in the step's mean over all workers.
        Returns:
            The step to compute next; more than one on if the run went on without this worker.
        """
        dim = self._tables.dims[self._table]
        keys = [np.zeros(0, np.uint64), *(keys for keys, _ in self._used)]
        gradients = [np.zeros((0, dim), np.float32), *(_gradient(rows) for _, rows in self._used)]
        pushed = self._tables.push_rows(
            self._table, self.step, np.concatenate(keys), np.concatenate(gradients), samples
        )
        self._used = []
        self.step = max(self.step + 1, pushed.next_step)
        return self.step


def _gradient(rows: torch.Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    gradient = (
        torch.zeros_like(rows) if rows.grad is None else rows.grad
    )  # nothing of the loss came from them
    return cast("np.ndarray[tuple[int, int], np.dtype[np.float32]]", gradient.detach().numpy())
