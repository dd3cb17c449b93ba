# length: one object and its lock; every method is a rule of who waits for whom
"""A shard that many calls use at once: one changes it at a time, any number reads or waits for news."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.errors import FailedPrecondition, HeadraceError, RunFinished, Unavailable
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Durability, StoreConfig
from headrace_parameters.core.exchange import GradientLost, lost_if_taken_back, of_version
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.kinds import Change, make, make_room, takes
from headrace_parameters.core.members import MembersChange
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.rows.push import RowPush, TablePush
from headrace_parameters.core.rows.state import TableState
from headrace_parameters.core.shard import Published, Push, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.gate import Gate
from headrace_parameters.journal.finished_file import write_finished
from headrace_parameters.journal.journal import Journal
from headrace_parameters.live_tables import LiveTables
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.recycled import PrivateMemory, Recycled
from headrace_parameters.safety import Safety
from headrace_parameters.shard_view import ShardView
from headrace_parameters.visibility import Made

if TYPE_CHECKING:  # they compile loops, which no process without a table needs
    from headrace_parameters.core.rows.shard import RowShard
    from headrace_parameters.live_table import LiveTable


class LiveStore(ShardView):
    """One shard of a store in this process.

    Updates are computed under one lock, and readers wait under another: a pull never waits for an update to be computed, it
    takes the version before, whose values stay as they are for as long as somebody in this process reads them.

    With a journal, every change is written before it is made, and nobody sees or is told of it before it has reached the store's
    durability: `published` lags behind the shard until then.

    Args:
        shard: What a recovery found; None: a new one.
        journal: Where changes are written; None: the store is in memory alone.
        memory: Where the values of `shard` are; None: in new memory.
        reserve_rows: Told a table's name and the memory it needs in all, before it takes more; raises if there is none.
        tables: What a recovery found.
    """

    def __init__(
        self,
        config: StoreConfig,
        create_time: datetime,
        shard: Shard | None = None,
        journal: Journal | None = None,
        memory: PublishedMemory | None = None,
        reserve_rows: Callable[[str, int], None] = lambda _table, _size: None,
        tables: "Mapping[str, RowShard] | None" = None,
    ) -> None:
        self.create_time = create_time
        self.journal = journal
        self.memory = memory or PublishedMemory()
        whole = shard or Shard(config, self.memory)
        held = LiveTables(whole.config, reserve_rows, Safety(self), tables or {})
        super().__init__(config, whole, held)
        self.incarnation = secrets.randbits(64) | 1  # another whenever a version may mean other values
        self.received = Recycled(PrivateMemory)
        self.changing = threading.Lock()  # held by whoever changes the shard
        self.gate = Gate(self.changing)
        self.next_map: ShardMap | None = None  # the one that is being made
        self.next_map_agreed = False  # by all, and this one leads to it
        self.add_tables({})

    def initialize(self, layout: FlatLayout, values: Floats, tables: Sequence[TableConfig] = ()) -> None:
        """Take the first values, shape (values held here,), and tables, unless there are some."""
        new = self.tables.new(tables, self.members)
        with self.alone():
            if self._shard.published:
                self._shard.check_layout(layout)
            else:
                first = Shard(self.config, self.memory, self.members)
                first.initialize(layout, values)
                with self.tables.room(new):
                    self.tables.reserve(new)
                    self._put(first, {**self.tables, **new})
                self.add_tables(new)
                self.tables.change_members(self.members.generation, self.members.workers)
            made = self.made()
        self.tell(made)

    def check_model(self, layout: FlatLayout, tables: Sequence[TableConfig]) -> None:
        """Raise what keeps first values of such a model out: ShapeMismatch, or InvalidArgument, if there are those of another one."""
        self.check_layout(layout)
        self.tables.check_same(tables)
        if self.published:
            self.tables.check_known(tables)

    def new_memory(self, size: int) -> Floats:
        """Return memory for what is received, shape (size,), with anything in it; it is used again and again."""
        _, values = self.received.take(size)
        return values

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' gradients count from now on; calls of an older generation that wait end with MembersChanged."""
        with self.alone():
            self.check_stays()
            change = MembersChange(generation, workers)
            if not takes(self.contents, change):
                return
            if self._shard.published:  # or the first values, with which a log begins, will say it
                self._write(self._seal(change))
            self._apply(change)
            made = self.made()
        self.tell(made)

    def exactly(self, version: int, generation: int) -> Published:
        """Return the values of this very version to a member, who reads them and ends that; it raises what `Members.check_generation` and `of_version` do."""
        with self.alone():
            self._shard.members.check_generation(generation)
            published = of_version(version, self._shard.published, self._shard.former)
            published.readers.begin()
            made = self.made()
        self.tell(made)
        return published

    def is_duplicate(self, worker: int, step: int, generation: int = 0) -> bool:
        """Tell early what `push` will find, once that is as safe as an answer must be; it raises what `push` would."""
        with self.alone():
            duplicate = self._shard.is_duplicate(worker, step, generation)
            made = self.made()
        if duplicate:
            self.tell(made)
        return duplicate

    def push(self, push: Push) -> bool:
        """Take a gradient; return False if it was taken before.

        Raises:
            StorageFull, DataLoss: It could not be written, and was not applied.
            GradientLost: A worker wrote to a lent one while it was applied, and the store has ended.
        """
        try:
            return self._take(push, push.worker)
        except GradientLost as error:
            self.end(error)
            raise

    def _take(self, change: Push | StepNorms | TablePush, worker: int | None = None) -> bool:
        """Make a change when its turn has come, and return once others may know; False if it was made before.

        Args:
            worker: Who may not go on before; None: it is of all workers.
        """
        sealed = self._seal(change)
        with self._turn(change.step, worker):
            if self.recorded:
                self._shard.check_gradients()  # what is in the log must come of it here too
            taken = takes(self.contents, change)
            if taken:
                self._write(sealed)  # before: what is made can always be recovered
                self._apply(change)
            made = self.made()
        self.tell(made)
        return taken

    def take_back(self, end: Callable[[], None]) -> None:
        """Copy lent gradients that wait for others, and let no further one come by the loan that `end` ends.

        Raises:
            GradientLost: A worker wrote to one that the log says was taken, and the store has ended.
        """
        try:
            with self.changing:
                self._settle()
                self._shard.keep_gradients(logged=self.recorded)
                end()
        except GradientLost as error:
            self.end(error)
            raise

    @property
    def recorded(self) -> bool:
        """Whether what was taken is kept elsewhere too, so that it must be here."""
        return self.journal is not None

    def _settle(self) -> None:
        """Return when what keeps changes elsewhere reads nothing any more that workers have lent.

        Raises:
            GradientLost: It lacks something, and a worker wrote to that.
        """
        if self.journal:
            self.journal.settle()

    def push_rows(self, table: "LiveTable", push: RowPush) -> bool:
        """Take a gradient of rows; return False if it was taken before or comes too late.

        Raises:
            FailedPrecondition: The store is durable and has no values, with which a log begins.
            StorageFull, DataLoss, QuotaExceeded, ResourceExhausted: It could not be written, or there is no room; it was not applied.
        """
        if self.config.durability is not Durability.MEMORY and not self._shard.published:
            raise FailedPrecondition(f"{self.config.name} has no values yet; call Initialize first")
        taken = self._take(TablePush(table.config.name, push), push.worker)
        table.show()
        return taken

    def add_tables(self, tables: "Mapping[str, LiveTable]") -> None:
        """Have these tables, too; dense gradients and those of rows are clipped by one norm."""
        self.tables.add(tables)
        self._shard.clip_with(self.tables if self.config.maximum_gradient_norm and self.tables else None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the shard alone, if the store can be used here."""
        with self.changing:
            self.check_serves()
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """Have the shard alone, whatever this process is to the store."""
        with self.changing:
            self.news.check_alive()
            yield

    @contextmanager
    def _turn(self, step: int, worker: int | None = None) -> Iterator[None]:
        """Have the shard alone for a change that belongs to this step, as soon as it may come; None: of all workers."""
        with self.changing:
            self.gate.enter(step, worker)
            self.check_serves()
            yield

    def _seal(self, change: Change) -> Sealed | None:
        """Prepare the record of a change; None if nobody keeps one."""
        return Sealed.of(change) if self.journal else None

    def _write(self, sealed: Sealed | None) -> None:
        if sealed:
            make_room(self.contents, sealed.change)
        if self.journal and sealed:
            self.journal.append(sealed)

    def _apply(self, change: Change) -> None:
        with lost_if_taken_back(logged=self.recorded):
            taken = make(self.contents, change)
        assert taken, "whoever calls has asked whether it will be"
        self.gate.moved()
        self.visibility.change()
        if self.journal and self.journal.due:
            self._snapshot(self.journal)

    def _snapshot(self, journal: Journal) -> None:
        """Write a snapshot at a moment between two steps; if none comes, with what waits for others then."""
        waiting = [] if self.between_steps else self.waiting() if journal.overdue else None
        if waiting is not None:
            journal.snapshot(self.state(journal.row_moments), waiting)

    def _rebase(self, state: Callable[[], ShardState]) -> None:
        """Write what no change leads to, if anybody keeps it."""
        if self.journal:
            self.journal.rebase(state())

    def become(self, shard: Shard, states: Mapping[str, TableState]) -> None:
        """Put another shard in the place of this one, with tables of these states, once all of it is written.

        Raises:
            InvalidArgument, QuotaExceeded, ResourceExhausted: As `LiveTables.restored`; nothing has changed.
        """
        self.tables.go_by(shard.config)
        new = self.tables.declared_in(states, shard.members)
        with self.tables.room(new):
            self.tables.reserve(new)
            tables = self.tables.restored(states, shard.members, new)
            self._put(shard, tables)
        self.add_tables(new)
        self.tables.become(tables)
        self.tables.reserve(self.tables)  # and no more, now that the former rows are gone

    def _put(self, shard: Shard, tables: "Mapping[str, RowShard | LiveTable]") -> None:
        self._rebase(
            lambda: replace(shard.state(), tables={name: table.state() for name, table in tables.items()})
        )
        self._shard, self.incarnation = shard, secrets.randbits(64) | 1
        self.visibility.change()

    def made(self) -> Made:
        """Say what all changes so far led to, under `changing`; for `tell`."""
        return self.visibility.made(self._shard.published, self._shard.measured, self.positions())

    def tell(self, made: Made) -> None:
        """Return when others may know what was made, and let pulls see it."""
        self.wait_until_safe(made.positions)
        self.visibility.show(made)
        if self.config.maximum_gradient_norm:
            self.tables.show()  # they went on with the dense values

    def positions(self) -> tuple[int, ...]:
        """Say how far everything is that must follow; for `wait_until_safe`."""
        return (self.journal.position if self.journal else 0,)

    def wait_until_safe(self, positions: tuple[int, ...]) -> None:
        """Return when everything has followed as far; raise why it will not."""
        if self.journal:
            self.journal.wait(positions[0])

    def keep(self, journal: Journal) -> None:
        """Write what there is, and from now on every change, to a journal; before anyone else has the store."""
        if self._shard.published:
            journal.rebase(self.state())
        self.journal = journal

    def finish_step(self, told: StepNorms) -> None:
        """Let a complete step go on with norms over all shards; do nothing if it has them already."""
        self._take(told)

    def open(self) -> None:
        """Begin to act, now that others may have the store."""

    @property
    def serves(self) -> bool:
        """Whether this process speaks for the shard."""
        return True

    @property
    def follows(self) -> bool:
        """Whether this process does what another one does."""
        return False

    def check_takes_part(self, term: int, replica: str) -> None:  # noqa: ARG002 - a store with replicas needs it
        """Raise unless the store is served in this term, with this replica, and whoever serves it later has all of it; 0: by one process."""
        if term:
            raise FailedPrecondition(
                f"{self.config.name} is of {self.config.durability.value} here, and has no term {term}"
            )

    def wait_for_record(self, number: int) -> None:
        """Return when a process that follows has this record, and no more."""

    @property
    def record(self) -> int:
        """The last record that this process has; 0: it keeps no count of them."""
        return 0

    def beside(
        self, shard: Shard, memory: PublishedMemory, reserve_rows: Callable[[str, int], None]
    ) -> "LiveStore":
        """Make another one of this process's, which may take this one's place."""
        return LiveStore(self.config, self.create_time, shard, memory=memory, reserve_rows=reserve_rows)

    def keep_in(self, *journals: Journal | None, kept: bool = False) -> None:
        """Keep beside these logs what this process is to the store, from now on; `kept`: what it is now is there already."""

    def moved(self) -> None:
        """Go on with what waited while values were about to move."""

    def followed_by(self, following: "LiveStore") -> None:
        """Let another one act in the place of this one, under `changing`."""

    def check_stays(self) -> None:
        """Raise Unavailable while values move to other shards."""
        if self.next_map:
            raise Unavailable(f"values of {self.config.name} move between its shards; try again soon")

    def check_serves(self) -> None:
        """Raise why nobody can use the store here any more, if that is so."""
        self.news.check_alive()

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`, waiting pulls first."""
        with self.changing:
            self.news.end(why)
            self.gate.open()
        self.tables.end(why)

    def finish(self) -> None:
        """End the run for all workers, those that wait first, once no restart can begin it again.

        Raises:
            StorageFull, DataLoss: That could not be written, and the run is not over.
        """
        if self.journal:
            write_finished(self.journal)
        self.end_run()

    def end_run(self) -> None:
        """Let everyone know that the run is over."""
        LiveStore.end(  # and nothing more: a replica must still hear of it
            self,
            RunFinished(f"the run of {self.config.name} was ended by one of its workers, for all of them"),
        )

    def forget_files(self) -> None:
        """Remove what is on the disk, after `end`."""
        if self.journal:
            self.journal.destroy()
