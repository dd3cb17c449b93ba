"""All that a store has on one shard: dense values, and rows of tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.shard import Shard


class Rows(Protocol):
    """A table, as `core.rows.shard.RowShard` is one, which need not be imported where there is none."""

    def takes(self, push: RowPush) -> bool:
        """Tell whether `push` would take this gradient; changes nothing."""

    def make_room(self, push: RowPush) -> None:
        """Make sure that `push` finds room for new rows."""

    def push(self, push: RowPush) -> bool:
        """Take a gradient; return False, with nothing changed, if it was taken before or comes too late."""

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on."""


@dataclass(frozen=True)
class Contents:
    """The shard and its tables, by name; neither is thread-safe."""

    shard: Shard
    tables: Mapping[str, Rows] = field(default_factory=dict)
