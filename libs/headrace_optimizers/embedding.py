"""A table as a layer of a model.

    class Reviews(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = EmbeddingTable("words", dim=32, optimizer=RowWiseAdagrad(learning_rate=0.1))
            self.output = torch.nn.Linear(32, 2)

        def forward(self, words):                                  # int64 keys, shape (batch, length)
            return self.output(self.words(words).mean(dim=1))

In a job that is all: the workers declare the table with the model's first values, and push the gradients of its rows. A training loop of
one's own connects the layer to a store that has the table, and pushes:

    model.words.use(tables)
    for step, (keys, targets) in enumerate(batches):
        loss = model.loss(keys, targets)                           # pulls the rows of the batch
        loss.backward()
        model.words.push(samples=len(targets))                     # pushes their gradients
        values = store.push_pull(step, gradient, samples=len(targets)).values

The rows of a batch are all that is in the worker's memory meanwhile. The state dict has all rows that somebody has pushed to; a model that
has loaded one, to be exported or served, finds them by key without a store.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from torch._compile import _disable_dynamo

from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace.parameters.tables import ShardedTables
from headrace_optimizers.row_config import RowOptimizer
from headrace_optimizers.row_initializer import Constant, Initializer
from headrace_optimizers.row_lookup import first_values, look_up
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_optimizers.table_config import TableConfig

Method = TypeVar("Method", bound=Callable[..., Any])

_ZEROS = Constant(0.0)


def _not_compiled(method: Method) -> Method:
    """Keep torch.compile out of what calls other processes.

    As `torch.compiler.disable` does, but that imports the compiler, which takes as long as torch itself: here, only what compiles does.
    """
    disabled = _disable_dynamo(method)

    @wraps(method)
    def call(*args: Any) -> Any:
        return disabled(*args) if "torch._dynamo" in sys.modules else method(*args)

    return cast("Method", call)


class EmbeddingTable(torch.nn.Module):
    """Rows by key, shape (*keys.shape, dim). It has no parameters of its own: a push takes the place of an optimizer's step.

    Args:
        name: Unique in the model.
        dim: Values of a row.
        optimizer: How gradients change rows.
        initializer: First values of rows.
        schedule: Of the learning rate.
        max_rows, max_idle_steps, max_bytes: As `TableConfig`.
    """

    keys: torch.Tensor
    rows: torch.Tensor

    def __init__(
        self,
        name: str,
        dim: int,
        *,
        optimizer: RowOptimizer,
        initializer: Initializer = _ZEROS,
        schedule: Schedule = CONSTANT,
        max_rows: int = 0,
        max_idle_steps: int = 0,
        max_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.config = TableConfig(
            name, dim, initializer, optimizer, schedule, max_rows, max_idle_steps, max_bytes
        )
        self.step = 0  # which is computed now; `push` goes on to the next
        self._tables: ShardedTables | None = None  # None: the rows are here
        self._used: list[tuple[Keys, torch.Tensor]] = []
        self._gradient: tuple[Keys, Floats] | None = None
        # Not persistent: what a state dict has of the table is here or in the store.
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("rows", torch.zeros(0, dim), persistent=False)

    def use(self, tables: ShardedTables, step: int = 0) -> Self:
        """Have the rows in a store from now on; rows that are here are forgotten.

        Args:
            tables: The store's, as this worker uses it.
            step: The first step to compute.
        """
        self._hold(torch.zeros(0, dtype=torch.int64), torch.zeros(0, self.config.dim))
        self._tables = tables
        self.begin(step)
        return self

    def keep(self) -> None:
        """Have all rows of the store here from now on, and do without the store."""
        if self._tables:
            self._hold(*self._all_rows())

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        """Return the rows of `keys`, int64 of any shape; out of a store, as soon as they may be used for `step`.

        With gradients on, each call is remembered until `push` or `begin`; any number of them, as for micro-batches, make one step.
        """
        if self._tables is None:
            config = self.config
            first = first_values(config.initializer, config.name, keys, config.dim)
            return look_up(self.keys, self.rows, keys, first)
        return self._pulled(self._tables, keys)

    @_not_compiled
    def _pulled(self, tables: ShardedTables, keys: torch.Tensor) -> torch.Tensor:
        unique, places = np.unique(keys.detach().cpu().numpy().reshape(-1), return_inverse=True)
        pulled = tables.pull_rows(self.config.name, unique, step=self.step).values
        rows = torch.from_numpy(pulled).to(keys.device)
        if torch.is_grad_enabled():
            rows.requires_grad_()
            self._used.append((unique.view(np.uint64), rows))
            self._gradient = None
        chosen = rows.index_select(0, torch.from_numpy(places.reshape(-1)).to(keys.device))
        return chosen.reshape(*keys.shape, self.config.dim)

    def begin(self, step: int) -> None:
        """Compute `step` from now on; gradients that were not pushed are forgotten."""
        self.step, self._used, self._gradient = step, [], None

    def gradient(self) -> tuple[Keys, Floats]:
        """Return the gradients of all rows that were used in this step: keys, shape (n,), all different, and values, shape (n, dim)."""
        if self._gradient is None:
            self._gradient = _summed([(keys, _gradient(rows)) for keys, rows in self._used], self.config.dim)
        return self._gradient

    def push(self, samples: float) -> int:
        """Push the gradients of all rows that were used in this step, and go on to the next one.

        Once in each step, also in one in which this worker used no row.

        Args:
            samples: The gradient's weight in the step's mean over all workers.
        Returns:
            The step to compute next; more than one on if the run went on without this worker.
        """
        assert self._tables is not None, "rows that are here are not trained; call `use`"
        pushed = self._tables.push_rows(self.config.name, self.step, *self.gradient(), samples)
        self.begin(max(self.step + 1, pushed.next_step))
        return self.step

    def _all_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all rows there are: keys, ascending as int64, and values."""
        if self._tables is None:
            return self.keys, self.rows
        keys, values = self._tables.scan_rows(self.config.name)
        signed = keys.view(np.int64)
        order = np.argsort(signed)
        return torch.from_numpy(signed[order]), torch.from_numpy(values[order])

    def _hold(self, keys: torch.Tensor, rows: torch.Tensor) -> None:
        place = self.keys.device  # where the model is
        self._tables, self.keys, self.rows = None, keys.to(place), rows.to(place)

    def _save_to_state_dict(
        self,
        destination: dict[str, Any],
        prefix: str,
        keep_vars: bool,  # noqa: ARG002 - the signature is torch's
    ) -> None:
        destination[f"{prefix}keys"], destination[f"{prefix}rows"] = self._all_rows()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **_: Any) -> None:
        _, _, missing, _, errors = rest
        names = [f"{prefix}{part}" for part in ("keys", "rows")]
        absent = [name for name in names if name not in state_dict]
        if absent:
            missing += absent
            return
        keys, rows = (state_dict[name].detach().clone() for name in names)
        if keys.dtype != torch.int64 or keys.ndim != 1 or rows.shape != (len(keys), self.config.dim):
            errors.append(
                f"table {self.config.name!r} has {self.config.dim} values a row; {list(rows.shape)} of them came with keys of shape "
                f"{list(keys.shape)}, {keys.dtype}"
            )
            return
        order = torch.argsort(keys)
        self._hold(keys[order], rows[order].to(torch.float32))


def tables_of(module: torch.nn.Module) -> tuple[EmbeddingTable, ...]:
    """Return the tables of a model, in the order of its modules."""
    return tuple(each for each in module.modules() if isinstance(each, EmbeddingTable))


def _gradient(rows: torch.Tensor) -> Floats:
    gradient = (
        torch.zeros_like(rows) if rows.grad is None else rows.grad
    )  # nothing of the loss came from them
    return cast("Floats", gradient.detach().cpu().numpy())


def _summed(parts: list[tuple[Keys, Floats]], dim: int) -> tuple[Keys, Floats]:
    """Put the gradients of several calls together, each key once."""
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([np.zeros(0, np.uint64), *(keys for keys, _ in parts)])
    unique, places = np.unique(keys, return_inverse=True)
    total = np.zeros((unique.size, dim), np.float32)
    np.add.at(total, places, np.concatenate([total[:0], *(gradient for _, gradient in parts)]))
    return unique, total
