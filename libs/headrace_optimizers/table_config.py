"""What a table is told when it is made."""

import re
from dataclasses import dataclass

from headrace.errors import InvalidArgument
from headrace_optimizers.bounds import check
from headrace_optimizers.row_config import RowOptimizer
from headrace_optimizers.row_initializer import Initializer
from headrace_optimizers.schedule import CONSTANT, Schedule

MAX_DIM = 1 << 16
MAX_TABLES = 256
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_./-]{0,126}[A-Za-z0-9_])?")


@dataclass(frozen=True)
class TableConfig:
    """A table of a store, before it has rows.

    Args:
        dim: Values of a row.
        max_rows: Of the whole table; each shard keeps its part, rounded up. Rows that were touched least recently make room. 0: any number.
        max_idle_steps: A row that no push touched in so many steps is forgotten. 0: never.
        max_bytes: Of each shard of the table: a push that needs more is refused. 0: as much as the process gives.
    """

    name: str
    dim: int
    initializer: Initializer
    optimizer: RowOptimizer
    schedule: Schedule = CONSTANT
    max_rows: int = 0
    max_idle_steps: int = 0
    max_bytes: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"table name {self.name!r} is none; use 1 to 128 letters, digits, '_', and within it '.', '/' or '-'",
                field="tables.name",
            )
        check("tables.dim", self.dim, f"1 to {MAX_DIM}", 1 <= self.dim <= MAX_DIM)
        check("tables.max_rows", self.max_rows, "0 (any number) or more", self.max_rows >= 0)
        check("tables.max_idle_steps", self.max_idle_steps, "0 (never) or more", self.max_idle_steps >= 0)
        check("tables.max_bytes", self.max_bytes, "0 (no bound) or more", self.max_bytes >= 0)


def check_tables(tables: tuple[TableConfig, ...]) -> None:
    """Raise InvalidArgument if two tables have one name, or there are too many."""
    names = [table.name for table in tables]
    if len(names) > MAX_TABLES:
        raise InvalidArgument(
            f"{len(names)} tables were declared; a store may have {MAX_TABLES}", field="tables"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgument(f"table {twice!r} is declared twice; names must differ", field="tables")
