"""Declarations of tables as facts for JSON: a snapshot tells what its tables are, so that a store can be made of it alone."""

from dataclasses import asdict
from typing import Any

from headrace.errors import InvalidArgument
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_initializer import Constant, Normal, Uniform
from headrace_optimizers.schedule import Decay, Schedule
from headrace_optimizers.table_config import TableConfig

_KINDS = {
    kind.__name__: kind for kind in (RowSgd, RowWiseAdagrad, RowAdagrad, RowAdam, Constant, Uniform, Normal)
}


def declaration_to_json(table: TableConfig) -> dict[str, Any]:
    """Write a declaration."""
    facts = asdict(table)
    for part in ("optimizer", "initializer"):
        facts[part] = {"kind": type(getattr(table, part)).__name__, **facts[part]}
    facts["schedule"]["decay"] = table.schedule.decay.value
    return facts


def declaration_from_json(facts: dict[str, Any]) -> TableConfig:
    """Read what `declaration_to_json` wrote; InvalidArgument if it is something else."""
    try:
        schedule = Schedule(**{**facts["schedule"], "decay": Decay(facts["schedule"]["decay"])})
        parts = {part: _part(facts[part]) for part in ("optimizer", "initializer")}
        return TableConfig(**{**facts, **parts, "schedule": schedule})
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"the snapshot of a table is damaged: {error!r}") from error


def _part(facts: dict[str, Any]) -> Any:
    settings = dict(facts)
    return _KINDS[settings.pop("kind")](**settings)
