"""All tables of a store on one shard."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError, InvalidArgument
from headrace.parameters.cut import Cut
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.members import Members, first_members
from headrace_parameters.core.rows.state import Moment, TableState
from headrace_parameters.safety import Safety

if TYPE_CHECKING:
    from headrace_parameters.core.rows.part import TablePart
    from headrace_parameters.core.rows.shard import RowShard
    from headrace_parameters.live_table import LiveTable


class LiveTables(Mapping[str, "LiveTable"]):
    """Tables by name.

    Args:
        reserve: Told a table's name and the memory it needs in all, before it takes more; raises if there is none.
        safety: When others may know of a change.
        shards: What a recovery found.
    """

    def __init__(
        self,
        store: StoreConfig,
        reserve: Callable[[str, int], None],
        safety: Safety,
        shards: "Mapping[str, RowShard]",
    ) -> None:
        self._store, self._reserve, self._safety = store, reserve, safety
        self._tables: dict[str, LiveTable] = {}
        members = first_members(store.worker_count)
        self._tables = self.new(store.tables, members)
        found = [shard.config for shard in shards.values() if shard.config not in store.tables]
        self._tables |= self.new(found, members)
        self.become(shards)

    def __getitem__(self, name: str) -> "LiveTable":
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def new(self, tables: Iterable[TableConfig], members: Members) -> "dict[str, LiveTable]":
        """Make those of these tables that are not here yet, for `add`.

        Raises:
            InvalidArgument: The store cannot have them, or has others of their names.
        """
        declared = tuple(tables)
        self.check_same(declared)
        absent = [table for table in declared if table.name not in self._tables]
        self._store.check_tables((*(table.config for table in self.values()), *absent))
        return self._made(absent, members) if absent else {}

    def check_same(self, tables: Iterable[TableConfig]) -> None:
        """Raise InvalidArgument if there is a table here of the name of one of these, and it is another one."""
        for table in tables:
            if table.name in self._tables and self._tables[table.name].config != table:
                raise InvalidArgument(
                    f"{self._store.name} has a table {table.name!r} that was declared otherwise; use a new store for another model",
                    field="tables",
                )

    def check_known(self, tables: Iterable[TableConfig]) -> None:
        """Raise InvalidArgument if one of these is not here, of a store that has values and so takes no more tables."""
        missing = {table.name for table in tables} - self.keys()
        if missing:
            raise InvalidArgument(
                f"{self._store.name} has values, and no table {min(missing)!r}; use a new store for another model",
                field="tables",
            )

    def go_by(self, store: StoreConfig) -> None:
        """Take the store to be this from now on; it may have another number of shards."""
        self._store = store
        for table in self._tables.values():
            table.store = store

    def reserve(self, tables: "Mapping[str, LiveTable]") -> None:
        """Keep room for new tables; QuotaExceeded if there is none."""
        for name, table in tables.items():
            self._reserve(name, table.facts().size_bytes)

    @contextmanager
    def room(self, new: "Mapping[str, LiveTable]") -> Iterator[None]:
        """Give back what was reserved within, for these new tables or for what was to take the place of others, if nothing comes of it."""
        try:
            yield
        except BaseException:
            sizes = dict.fromkeys(new, 0) | self.sizes()
            for name, size_bytes in sizes.items():
                self._reserve(name, size_bytes)
            raise

    def add(self, tables: "Mapping[str, LiveTable]") -> None:
        """Have these tables, too."""
        self._tables = {**self._tables, **tables}

    def show(self) -> None:
        """Let others know how far all tables are, once that is safe."""
        for table in self._tables.values():
            table.show()

    def cuts(self) -> list[Cut]:
        """Say where each table is."""
        return [table.cut() for table in self._tables.values()]

    def sizes(self) -> dict[str, int]:
        """Return the memory that each table takes, bytes."""
        return {name: table.facts().size_bytes for name, table in self._tables.items()}

    def standings(self) -> list[Cut]:
        """Say where each table is, as `LiveTable.standing` does."""
        return [table.standing() for table in self._tables.values()]

    def pending(self) -> dict[str, frozenset[int]]:
        """Return the workers whose pushes wait, by table."""
        return {name: table.pending for name, table in self._tables.items()}

    def take_over(self, parts: "Mapping[str, TablePart]") -> None:
        """Become what these parts of all tables say, before anyone else has the store; it raises what `RowShard.take_over` does."""
        self.become({name: self._tables[name].taken_over(part) for name, part in parts.items()})

    @property
    def between_steps(self) -> bool:
        """Whether no push waits for others."""
        return all(table.between_steps for table in self._tables.values())

    def states(self, since: Mapping[str, Moment] | None = None) -> dict[str, TableState]:
        """Return a copy of all rows, or for tables in `since` of those that may have changed since."""
        moments = since or {}
        return {name: table.state(moments.get(name)) for name, table in self._tables.items()}

    def declared_in(self, states: Mapping[str, TableState], members: Members) -> "dict[str, LiveTable]":
        """Make the tables of a snapshot that are not here yet, for `add`.

        Raises:
            InvalidArgument: As `new`.
        """
        known = [state.declaration for state in states.values() if state.declaration]
        return self.new([each for each in known if each.name not in self._tables], members)

    def restored(
        self, states: Mapping[str, TableState], members: Members, new: "Mapping[str, LiveTable]"
    ) -> "dict[str, RowShard]":
        """Return what the tables, and the `new` ones, shall `become` to go on from the states of a snapshot; one that is not in it
        begins anew.

        Raises:
            InvalidArgument: The snapshot has a table that is not declared here, or is declared otherwise.
            QuotaExceeded, ResourceExhausted: There is no room.
        """
        tables = {**self._tables, **new}
        unknown = sorted(states.keys() - tables.keys())
        if unknown:
            raise InvalidArgument(
                f"the snapshot has a table {unknown[0]!r} that this store has not; declare it in CreateStore",
                field="artifact",
            )
        return {name: table.restored(states.get(name), members) for name, table in tables.items()}

    def become(self, shards: "Mapping[str, RowShard]") -> None:
        """Go on from what `restored` returned."""
        for name, shard in shards.items():
            self._tables[name].become(shard)

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on."""
        for table in self._tables.values():
            table.change_members(generation, workers)

    def squared_norm(self) -> float | None:
        """Return that of the gradients of all tables, of a step that is complete; None: one's is not."""
        norms = [table.held_norm for table in self._tables.values()]
        found = [norm for norm in norms if norm is not None]
        return sum(found) if len(found) == len(norms) else None

    def finish(self, weight: float) -> None:
        """Apply the complete step of each table, times a weight."""
        for table in self._tables.values():
            table.finish(weight)

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

    def _made(self, tables: Iterable[TableConfig], members: Members) -> "dict[str, LiveTable]":
        # Here: it takes a third of a second to import what compiles loops, which no process without a table needs.
        from headrace_parameters.live_table import LiveTable

        store, reserve, safety = self._store, self._reserve, self._safety
        return {
            table.name: LiveTable(store, table, partial(reserve, table.name), members, safety)
            for table in tables
        }
