"""All tables of a store on one shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError, InvalidArgument
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.rows.state import TableState

if TYPE_CHECKING:
    from headrace_parameters.core.rows.shard import RowShard
    from headrace_parameters.live_table import LiveTable


class LiveTables(Mapping[str, "LiveTable"]):
    """Tables by name.

    Args:
        reserve: Told a table's name and the memory it needs in all, before it takes more; raises if there is none.
    """

    def __init__(self, store: StoreConfig, reserve: Callable[[str, int], None]) -> None:
        self._tables = _made(store, reserve) if store.tables else {}

    def __getitem__(self, name: str) -> "LiveTable":
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def states(self) -> dict[str, TableState]:
        """Return a copy of all rows."""
        return {name: table.state() for name, table in self._tables.items()}

    def restored(self, states: Mapping[str, TableState]) -> "dict[str, RowShard]":
        """Return what the tables shall `become` to go on from the states of a snapshot; one that is not in it begins anew.

        Raises:
            InvalidArgument: The snapshot has a table that is not declared here, or is declared otherwise.
            QuotaExceeded, ResourceExhausted: There is no room.
        """
        unknown = sorted(states.keys() - self._tables.keys())
        if unknown:
            raise InvalidArgument(
                f"the snapshot has a table {unknown[0]!r} that this store has not; declare it in CreateStore",
                field="artifact",
            )
        return {name: table.restored(states.get(name)) for name, table in self._tables.items()}

    def become(self, shards: "Mapping[str, RowShard]") -> None:
        """Go on from what `restored` returned."""
        for name, shard in shards.items():
            self._tables[name].become(shard)

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on."""
        for table in self._tables.values():
            table.change_members(generation, workers)

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`."""
        for table in self._tables.values():
            table.end(why)

    def check_dense(self, names: Iterable[str]) -> None:
        """Raise InvalidArgument if one of the tensors that somebody asks for is a table."""
        for name in names:
            if name in self._tables:
                raise InvalidArgument(
                    f"{name!r} is a table, whose rows have no end; ask for rows by their keys with Rows.PullRows",
                    field="tensors",
                )


def _made(store: StoreConfig, reserve: Callable[[str, int], None]) -> "dict[str, LiveTable]":
    # Here: it takes a third of a second to import what compiles loops, which no process without a table needs.
    from headrace_parameters.live_table import LiveTable

    return {table.name: LiveTable(store, table, partial(reserve, table.name)) for table in store.tables}
