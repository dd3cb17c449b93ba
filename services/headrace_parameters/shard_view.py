"""What anyone may ask of a shard at any moment, without a lock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from headrace.errors import DeadlineExceeded, ShardMapChanged
from headrace.parameters.layout import FlatLayout
from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.config import Norms, StoreConfig
from headrace_parameters.core.contents import Contents
from headrace_parameters.core.joint import Measured
from headrace_parameters.core.kinds import Change
from headrace_parameters.core.members import Members
from headrace_parameters.core.need import Need
from headrace_parameters.core.rows.push import TablePush
from headrace_parameters.core.rows.state import Moment
from headrace_parameters.core.shard import Published, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.lateness import too_late
from headrace_parameters.live_tables import LiveTables
from headrace_parameters.news import News
from headrace_parameters.visibility import Visibility


class ShardView:
    """The shard that a process holds now, as callers see it who change nothing."""

    def __init__(self, config: StoreConfig, shard: Shard, tables: LiveTables) -> None:
        self.config = config
        self._shard = shard
        self.tables = tables
        self.news = News()
        self.visibility = Visibility(shard.published, shard.measured, self.news)

    @property
    def published(self) -> Published | None:
        """The newest values that are as safe as they must be; None before there are any."""
        return self.visibility.published

    @property
    def alive(self) -> bool:
        """Whether the store has not ended."""
        return self.news.alive

    @property
    def shard(self) -> Shard:
        """The shard itself, for those who have it alone."""
        return self._shard

    @property
    def contents(self) -> Contents:
        """All that is held, for those who have it alone, as what follows."""
        return Contents(self._shard, self.tables)

    @property
    def between_steps(self) -> bool:
        """Whether `state` has all that was taken."""
        return self._shard.between_steps and self.tables.between_steps

    def waiting(self) -> list[Change] | None:
        """Return what was taken and is not in `state`: gradients that wait for others; None: a complete step that waits for norms, too."""
        rows = {name: table.waiting for name, table in self.tables.items()}
        dense = self._shard.waiting
        if dense is None or None in rows.values():
            return None
        of_tables = [TablePush(name, push) for name, pushes in rows.items() for push in pushes or ()]
        return [*dense, *of_tables]

    def state(self, rows_since: Mapping[str, Moment] | None = None) -> ShardState:
        """Return a copy of everything; of rows only what may have changed since then, if that is said."""
        return replace(self._shard.state(), tables=self.tables.states(rows_since))

    @property
    def term(self) -> int:
        """Of the primary that answers; 0: there is one process alone."""
        return 0

    @property
    def takes_loans(self) -> bool:
        """Whether a gradient may stay where its worker has it."""
        return True

    @property
    def layout(self) -> FlatLayout | None:
        """The tensors of the whole model; None before there are values."""
        return self._shard.layout

    @property
    def members(self) -> Members:
        """Whose gradients count."""
        return self._shard.members

    @property
    def size_bytes(self) -> int:
        """Memory of values and optimizer state, without tables."""
        return self._shard.size_bytes

    def needed_bytes(self, layout: FlatLayout) -> int:
        """Return the memory that values and optimizer state of such a model need here."""
        return self._shard.needed_bytes(layout)

    @property
    def map(self) -> ShardMap | None:
        """Which shard holds which values; None before there are values."""
        return self._shard.map

    @property
    def shard_count(self) -> int:
        """How many shards the store has."""
        return self._shard.config.shard_count

    @property
    def joint_norms(self) -> Sequence[Norms]:
        """Norms of the whole model that a complete step waits for."""
        return self._shard.config.joint_norms

    def held(self, layout: FlatLayout) -> tuple[range, ...]:
        """Say which values of the flat vector are held here."""
        return self._shard.held(layout)

    def check_map(self, epoch: int) -> None:
        """Let only callers pass who go by the store's own shard map; 0: the first one.

        Raises:
            ShardMapChanged: The store has another one, or is about to have its first.
        """
        if self.map:
            self.map.fence(epoch)
        elif epoch > 1 and self.config.joins:  # the others have changed to it a moment ago
            raise ShardMapChanged(
                f"{self.config.name} takes over values here and has no shard map yet; repeat the call with the store's map",
                metadata={"map_epoch": 0},
            )

    def check_arcs(self, epoch: int) -> None:
        """Let only callers pass who know where rows are; 0: by the arcs of a first map.

        Raises:
            ShardMapChanged: They are elsewhere.
        """
        self.check_map(epoch)
        if not epoch and self.map and self.map.arcs:
            raise ShardMapChanged(
                f"rows of {self.config.name} are not spread as by a first map; get the store, then repeat the call with its shard map",
                metadata={"map_epoch": self.map.epoch},
            )

    def check_layout(self, layout: FlatLayout) -> None:
        """Raise ShapeMismatch if there are values of another model, and whatever else keeps first values out."""
        self._shard.check_layout(layout)
        if not self._shard.published:
            self._shard.check_new()

    def need_for(self, step: int | None, pushed_step: int | None = None) -> Need:
        """Say what the values must hold with which a worker computes `step`, and that hold its own gradient of `pushed_step`."""
        return self._shard.need_for(step, pushed_step)

    def next_step(self, worker: int, published: Published) -> int:
        """Return the first step that this worker can compute with these values and whose gradient will be taken."""
        return self._shard.next_step(worker, published)

    def measured(self, norms: Norms) -> Measured | None:
        """Return the norms of the last step that came so far, with gradients that are all as safe as they must be."""
        return self.visibility.measured.get(norms)

    def too_late(self, need: Need) -> DeadlineExceeded:
        """Say who keeps the store from having what is needed."""
        return too_late(self._shard, self.published, need)
