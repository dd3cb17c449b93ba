"""All of a table that a snapshot keeps, as named tensors and facts for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from headrace.errors import InvalidArgument
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.members import Members
from headrace_parameters.core.rows.declaration import declaration_from_json, declaration_to_json

Facts = dict[str, Any]

_ROWS = ("keys", "values", "state", "touched")
_CHANGES = ("removed", "former_keys", "former_values")  # snapshots of earlier releases have none


@dataclass(frozen=True)
class Moment:
    """When a state was taken, as far as it decides what has changed since.

    Args:
        step: Rows that were touched in this step or later may have changed since.
        evictions: How many rows had been evicted since the table was made or loaded.
    """

    step: int = 0
    evictions: int = 0


def _no_keys() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.int64)


def _no_rows() -> torch.Tensor:
    return torch.zeros((0, 0), dtype=torch.float32)


@dataclass(frozen=True)
class TableState:
    """Everything that decides what one shard of a table does next; pushes of a step that is not complete are not in it.

    Args:
        optimizer: Kind of the optimizer that `state` belongs to.
        last_steps: Last step of each worker that was applied, if any was.
        keys: Shape (n,), int64, two's complement of the unsigned keys; ascending as unsigned numbers.
        values: Shape (n, dim), float32.
        state: Shape (n, width), float32.
        touched: Shape (n,), int32: step of each row's last touch.
        declaration: What the table was told when it was made; None in snapshots of earlier releases, as `members`.
        members: Whose pushes led to it.
        former_keys, former_values: The rows that the last update changed, as they were before it: shape (m,), as `keys`, and (m, dim).
        before: States that this one follows, oldest first: what they have counts, too, unless it changed later.
        since: It has only the rows that may have changed since then; None: all.
        removed: Shape (r,), as `keys`: those of rows that were evicted since then.
        moment: When it was taken.
    """

    optimizer: str
    version: int
    last_steps: Mapping[int, int]
    keys: torch.Tensor
    values: torch.Tensor
    state: torch.Tensor
    touched: torch.Tensor
    declaration: TableConfig | None = None
    members: Members | None = None
    former_keys: torch.Tensor = field(default_factory=_no_keys)
    former_values: torch.Tensor = field(default_factory=_no_rows)
    before: tuple["TableState", ...] = ()
    since: Moment | None = None
    removed: torch.Tensor = field(default_factory=_no_keys)
    moment: Moment = Moment()

    def encode(self) -> tuple[dict[str, torch.Tensor], Facts]:
        """Return tensors by name, and what else there is; without what is `before`."""
        tensors = {name: getattr(self, name) for name in (*_ROWS, *_CHANGES)}
        last_steps = [list(step) for step in sorted(self.last_steps.items())]
        return tensors, {
            "optimizer": self.optimizer,
            "version": self.version,
            "last_steps": last_steps,
            "declaration": declaration_to_json(self.declaration) if self.declaration else None,
            "members": asdict(self.members) if self.members else None,
            "step": self.moment.step,
        }

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], facts: Facts) -> "TableState":
        """Read what `encode` wrote.

        Raises:
            InvalidArgument: It is something else.
        """
        try:
            last_steps = facts["last_steps"]
            parts: dict[str, Any] = {name: tensors[name] for name in (*_ROWS, *_CHANGES) if name in tensors}
            if not isinstance(last_steps, list):
                raise TypeError(f"last_steps is {last_steps!r}")
            state = cls(
                optimizer=str(facts["optimizer"]),
                version=int(str(facts["version"])),
                last_steps={int(worker): int(step) for worker, step in last_steps},
                **parts,
                declaration=declaration_from_json(declared)
                if (declared := facts.get("declaration"))
                else None,
                members=Members.read(facts.get("members")),
                moment=Moment(int(facts.get("step", 0))),  # what was evicted is counted anew
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"the snapshot of a table is damaged: {error!r}") from error
        state._check()
        return state

    def _check(self) -> None:
        rows = len(self.keys)
        shapes = {"values": 2, "state": 2, "touched": 1, "keys": 1}
        types = {"values": torch.float32, "state": torch.float32, "touched": torch.int32, "keys": torch.int64}
        for name, dimensions in shapes.items():
            tensor: torch.Tensor = getattr(self, name)
            if tensor.ndim != dimensions or len(tensor) != rows or tensor.dtype != types[name]:
                raise InvalidArgument(
                    f"the snapshot of a table is damaged: {name} has shape {list(tensor.shape)} of {tensor.dtype} for {rows} keys"
                )
        formers = len(self.former_keys)
        if self.former_values.ndim != 2 or len(self.former_values) != formers:
            raise InvalidArgument(
                f"the snapshot of a table is damaged: {list(self.former_values.shape)} former values for {formers} keys"
            )
        if np.unique(self.keys.numpy()).size != rows:
            raise InvalidArgument("the snapshot of a table is damaged: a key is there twice")
