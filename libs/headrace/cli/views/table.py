"""A table, before anyone decides how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text below their columns; a column whose name begins with `>` is set to the right.

    `empty` is said instead when there are no rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = ""
