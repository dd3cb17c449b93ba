"""One of n shards out of the snapshots of m: what it shall hold is cut out of what they held."""

from collections.abc import Iterable
from dataclasses import replace

from headrace.errors import InvalidArgument
from headrace.parameters.ranges import shared
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.fused import kind_of
from headrace_parameters.assembly import Assembly
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.members import first_members
from headrace_parameters.core.part import Part
from headrace_parameters.core.rows.cutting import cut_out, joined_tables
from headrace_parameters.core.rows.state import TableState
from headrace_parameters.core.state import ShardState


def recut(states: Iterable[ShardState], config: StoreConfig) -> ShardState:
    """Return what the shard that `config` describes begins with; as many states are read as it needs.

    A store of as many shards as were saved gets their map, another one a first map.

    Args:
        states: Of shards of one checkpoint, in any order; those of all shards are enough in any case.
    Raises:
        InvalidArgument: They are not of one checkpoint, or not enough, or of another optimizer.
        FailedPrecondition: They are not of one point of the run.
    """
    cut: _Cut | None = None
    for state in states:
        cut = cut or _Cut(state, config)
        if cut.is_own(state):
            return replace(state, shard_index=config.shard_index, map=cut.map)
        cut.take(state)
        if cut.complete:
            return cut.finished()
    raise InvalidArgument(
        f"the snapshots lack values of shard {config.shard_index} of {config.shard_count}; give those of all shards",
        field="snapshots",
    )


class _Cut:
    """A shard that is put together.

    Args:
        first: Any state of the checkpoint.
    """

    def __init__(self, first: ShardState, config: StoreConfig) -> None:
        saved = first.map
        self._first = first
        self._config = config
        self.map = (
            saved.renumbered()
            if len(saved.shards) == config.shard_count
            else ShardMap.first(saved.size, config.shard_count)
        )
        self._held = self.map.held(config.shard_index)
        self._assembly = Assembly(first.layout, self.map, config.shard_index)
        self._arcs = self.map.arc_owners == config.shard_index
        # Of nothing, one of them all the same, to say where the run is.
        self._needed = self._sources(saved, rows=bool(first.tables)) or {first.shard_index}
        self._tables: dict[int, dict[str, TableState]] = {}  # what was taken of them, by shard

    def _sources(self, saved: ShardMap, *, rows: bool) -> set[int]:
        """Return the shards that had something of what this one shall hold."""
        values = {shard for shard in saved.shards if any(shared(saved.held(shard), self._held))}
        arcs = set(saved.arc_owners[self._arcs].tolist()) if rows else set()
        return values | arcs

    def is_own(self, state: ShardState) -> bool:
        """Tell whether it is the state of the very shard, which nothing need be cut out of."""
        self._check(state)
        as_many = len(state.map.shards) == self._config.shard_count
        return as_many and state.map.shards.index(state.shard_index) == self._config.shard_index

    def take(self, state: ShardState) -> None:
        """Take what a shard had of this one."""
        if state.shard_index not in self._needed:
            return
        self._assembly.copy(_part(state, self._config), state.map.held(state.shard_index))
        self._tables[state.shard_index] = {
            name: cut_out(table, self._arcs) for name, table in state.tables.items()
        }

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._needed <= self._tables.keys()

    def finished(self) -> ShardState:
        """Return the shard's state."""
        state, _ = self._assembly.finished(kind_of(self._config.optimizer))
        tables = joined_tables([self._tables[shard] for shard in sorted(self._tables)])
        return replace(state, epoch=self._first.epoch, tables=tables)

    def _check(self, state: ShardState) -> None:
        if (state.map, state.layout) != (self._first.map, self._first.layout):
            raise InvalidArgument(
                "the snapshots are not of one checkpoint: their models or shard maps differ",
                field="snapshots",
            )
        kind = kind_of(self._config.optimizer)
        if state.optimizer != kind:
            raise InvalidArgument(
                f"the snapshots have optimizer {state.optimizer}, this store {kind}; create it with the same",
                field="snapshots",
            )


def _part(state: ShardState, config: StoreConfig) -> Part:
    """Name what a state has as what moves between shards; there are no gradients in it."""
    members = state.members or first_members(config.worker_count)
    clocks = Clocks(members.workers, state.last_steps)
    published = Published(state.version, state.values.numpy(), clocks.slowest, clocks.furthest)
    return Part.of(published, clocks, members, state.optimizer_state, {})
