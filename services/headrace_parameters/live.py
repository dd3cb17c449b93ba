# length: one object and its lock; every method is a rule of who waits for whom
"""A shard that many calls use at once: one changes it at a time, any number reads or waits for news."""

import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    RunFinished,
    Unavailable,
)
from headrace.parameters.cut import Cut, latest
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Durability, Norms, StoreConfig
from headrace_parameters.core.exchange import GradientLost, of_version
from headrace_parameters.core.joint import Measured
from headrace_parameters.core.kinds import Change, make, takes
from headrace_parameters.core.need import Need
from headrace_parameters.core.part import Part
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Published, Push, Shard
from headrace_parameters.core.standing import Standing
from headrace_parameters.core.state import ShardState
from headrace_parameters.gate import HOLD_S, NOTHING, Gate
from headrace_parameters.journal.journal import Journal
from headrace_parameters.lateness import too_late
from headrace_parameters.live_tables import LiveTables
from headrace_parameters.news import News
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.recycled import PrivateMemory, Recycled
from headrace_parameters.shard_view import ShardView

if TYPE_CHECKING:  # they compile loops, which no process without a table needs
    from headrace_parameters.core.rows.push import RowPush
    from headrace_parameters.live_table import LiveTable


@dataclass(frozen=True)
class Made:
    """What a change led to, and how far everything must follow before anyone may know."""

    change: int
    published: Published | None
    positions: tuple[int, ...]


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
    """

    def __init__(
        self,
        config: StoreConfig,
        create_time: datetime,
        shard: Shard | None = None,
        journal: Journal | None = None,
        memory: PublishedMemory | None = None,
        reserve_rows: Callable[[str, int], None] = lambda _table, _size: None,
    ) -> None:
        self.create_time = create_time
        self.journal = journal
        self.memory = memory or PublishedMemory()
        super().__init__(config, shard or Shard(config, self.memory))
        self.tables = LiveTables(config, reserve_rows)
        self.incarnation = secrets.randbits(64) | 1  # another whenever a version may mean other values
        self.received = Recycled(PrivateMemory)
        self._visible = self._shard.published
        self._changes = self._shown = 0
        self._changing = threading.Lock()
        self.gate = Gate(self._changing)
        self.news = News()
        self.next_map: ShardMap | None = None  # the one that is being made

    @property
    def published(self) -> Published | None:
        """The newest values that are as safe as they must be; None before there are any."""
        return self._visible

    def initialize(self, layout: FlatLayout, values: Floats, tables: Sequence[TableConfig] = ()) -> None:
        """Take the first values, shape (values held here,), and tables, unless there are some."""
        new = self.tables.new(tables, self.members)
        with self._changing:
            self.check_serves()
            if self._shard.published:
                self._shard.check_layout(layout)
            else:
                first = Shard(self.config, self.memory, self.members)
                first.initialize(layout, values)
                self.tables.reserve(new)
                self._become(first)
                self.tables.add(new)
                self.tables.change_members(self.members.generation, self.members.workers)
            made = self._made()
        self._tell(made)

    def check_model(self, layout: FlatLayout, tables: Sequence[TableConfig]) -> None:
        """Raise what keeps first values of such a model out: ShapeMismatch, or InvalidArgument, if there are those of another one."""
        self.check_layout(layout)
        self.tables.check_same(tables)
        missing = self.published and {table.name for table in tables} - self.tables.keys()
        if missing:
            raise InvalidArgument(
                f"{self.config.name} has values, and no table {min(missing)!r}; use a new store for another model",
                field="tables",
            )

    def new_memory(self, size: int) -> Floats:
        """Return memory for what is received, shape (size,), with anything in it; it is used again and again."""
        _, values = self.received.take(size)
        return values

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' gradients count from now on; calls of an older generation that wait end with MembersChanged."""
        with self._changing:
            self.check_serves()
            self._check_stays()
            before, published = self._shard.members, self._shard.published
            if before.followed_by(generation, workers, 0) is before:
                return
            if published:  # first: or a restart would bring back the gradients that it drops
                self._rebase(lambda: self._shard.state().among(generation, workers))
            self._shard.change_members(generation, workers)
            self.tables.change_members(generation, workers)
            self._changes += 1
            made = self._made()
        self._tell(made)

    def exactly(self, version: int, generation: int) -> Published:
        """Return the values of this very version to a member, who reads them and ends that; it raises what `Members.check_generation` and `of_version` do."""
        with self._changing:
            self.check_serves()
            self._shard.members.check_generation(generation)
            published = of_version(version, self._shard.published, self._shard.former)
            published.readers.begin()
            made = self._made()
        self._tell(made)
        return published

    def is_duplicate(self, worker: int, step: int, generation: int = 0) -> bool:
        """Tell early what `push` will find, once that is as safe as an answer must be; it raises what `push` would."""
        with self._changing:
            self.check_serves()
            duplicate = self._shard.is_duplicate(worker, step, generation)
            made = self._made()
        if duplicate:
            self._tell(made)
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

    def _take(self, change: Change, worker: int | None = None) -> bool:
        """Make a change when its turn has come, and return once others may know; False if it was made before.

        Args:
            worker: Who may not go on before; None: it is of all workers.
        """
        sealed = self._seal(change)
        with self._turn(change.step, worker):
            taken = takes(self._shard, change)
            if taken:
                self._write(sealed)  # before: what is made can always be recovered
                self._apply(change)
            made = self._made()
        self._tell(made)
        return taken

    @property
    def takes_loans(self) -> bool:
        """Whether a gradient may stay where its worker has it; a log or a replica reads it later than its worker waits."""
        return self.config.durability is Durability.MEMORY

    def take_back(self, end: Callable[[], None]) -> None:
        """Copy lent gradients that wait for others, and let no further one come by the loan that `end` ends."""
        with self._changing:
            self._shard.keep_gradients()
            end()

    def push_rows(self, table: "LiveTable", push: "RowPush") -> bool:
        """Take a gradient of rows; return False if it was taken before or comes too late."""
        with self._turn(push.step, push.worker):
            taken = table.push(push)
            self.gate.moved()
        return taken

    @contextmanager
    def _turn(self, step: int, worker: int | None = None) -> Iterator[None]:
        """Have the shard alone for a change that belongs to this step, as soon as it may come; None: of all workers."""
        with self._changing:
            self.gate.enter(step, worker)
            self.check_serves()
            yield

    def _seal(self, change: Change) -> Sealed | None:
        """Prepare the record of a change; None if nobody keeps one."""
        return Sealed.of(change) if self.journal else None

    def _write(self, sealed: Sealed | None) -> None:
        if self.journal and sealed:
            self.journal.append(sealed)

    def _apply(self, change: Change) -> None:
        taken = make(self._shard, change)
        assert taken, "whoever calls has asked whether it will be"
        self.gate.moved()
        self._changes += 1
        if self.journal and self.journal.due and self._shard.between_steps:
            self.journal.snapshot(self._shard.state())

    def _rebase(self, state: Callable[[], ShardState]) -> None:
        """Write what no change leads to, if anybody keeps it."""
        if self.journal:
            self.journal.rebase(state())

    def _become(self, shard: Shard) -> None:
        """Put another shard in the place of this one, once it is written."""
        self._rebase(shard.state)
        self._shard, self.incarnation = shard, secrets.randbits(64) | 1
        self._changes += 1

    def _made(self) -> Made:
        return Made(self._changes, self._shard.published, self._positions())

    def _tell(self, made: Made) -> None:
        """Return when others may know what was made, and let pulls see it."""
        self._wait_until_safe(made.positions)
        self._show(made)

    def _positions(self) -> tuple[int, ...]:
        """Say how far everything is that must follow; for `_wait_until_safe`."""
        return (self.journal.position if self.journal else 0,)

    def _wait_until_safe(self, positions: tuple[int, ...]) -> None:
        if self.journal:
            self.journal.wait(positions[0])

    def _show(self, made: Made) -> None:
        """Let pulls see what a change led to, unless they see a later one already."""

        def show() -> None:
            if made.change > self._shown:
                self._shown, self._visible = made.change, made.published

        self.news.tell(show)

    def hold(self) -> Cut:
        """Take no further push for a while, and say where the shard is, so that `state` finds all shards at one moment."""
        with self._changing:
            self.check_serves()
            self._check_stays()
            if self._shard.published is None:
                raise FailedPrecondition(
                    f"{self.config.name} has no values to save yet; call Initialize first"
                )
            return self.gate.hold(latest(self._cuts()), HOLD_S)

    def _cuts(self) -> list[Cut]:
        """Say where the dense values are, and each table: workers push rows first, so a table may be ahead of them."""
        return [self._shard.cut(), *self.tables.cuts()]

    def _behind_all(self) -> Cut:
        """Say how far everything is."""
        cuts = self._cuts()
        return {worker: min(cut[worker] for cut in cuts) for worker in cuts[0]}

    def _check_stays(self) -> None:
        """Raise Unavailable while values move to other shards."""
        if self.next_map:
            raise Unavailable(f"values of {self.config.name} move between its shards; try again soon")

    def state(self, cut: Cut | None = None) -> ShardState:
        """Return a copy of everything, of one moment: as soon as the shard is at `cut`, after `hold`; Aborted if it is not in time."""
        with self._changing:
            if cut:
                self._check_stays()
                self.gate.meet(cut, self._behind_all)
                if latest(self._cuts()) != dict(cut):
                    raise Aborted("a table has gone on; repeat the snapshot")
            self.check_serves()
            state, made = replace(self._shard.state(), tables=self.tables.states()), self._made()
        self._tell(made)
        return state

    def restore(self, state: ShardState) -> None:
        """Become what `state` says."""
        with self._changing:
            self.check_serves()
            self._restore(state)
            made = self._made()
        self._tell(made)

    def begin(self, state: ShardState) -> None:
        """Become what `state` says, before anyone else has the store."""
        self._restore(state)
        self._show(self._made())

    def _restore(self, state: ShardState) -> None:
        self._shard.check_layout(state.layout)
        if self.next_map or (self.map and self.map.epoch > 1):
            raise FailedPrecondition(
                f"the shards of {self.config.name} have changed or are about to; create a store from the snapshots"
            )
        restored = Shard(self.config, self.memory, self.members)
        restored.restore(state)
        new = self.tables.declared_in(state.tables, restored.members)
        tables = self.tables.restored(state.tables, restored.members, new)
        self._become(restored)
        self.tables.add(new)
        self.tables.become(tables)

    def keep(self, journal: Journal) -> None:
        """Write what there is, and from now on every change, to a journal; before anyone else has the store."""
        if self._shard.published:
            journal.rebase(self._shard.state())
        self.journal = journal

    def finish_step(self, step: int, norms: Norms, squared_norms: Sequence[float]) -> None:
        """Let a complete step go on with norms over all shards; do nothing if it has them already.

        No log has this: stores whose steps need it are in memory alone.
        """
        with self._turn(step):
            self._shard.finish_step(step, norms, squared_norms)
            self.gate.moved()
            self._changes += 1
            made = self._made()
        self._show(made)

    def measured(self, norms: Norms) -> Measured | None:
        """Return the norms of the last step that came so far."""
        return self._shard.measured.get(norms)

    def too_late(self, need: Need) -> DeadlineExceeded:
        """Say who keeps the store from having what is needed."""
        return too_late(self._shard, self.published, need)

    @property
    def term(self) -> int:
        """Of the primary that answers; 0: there is one process alone."""
        return 0

    def open(self) -> None:
        """Begin to act, now that others may have the store."""

    def check_serves(self) -> None:
        """Raise why nobody can use the store here any more, if that is so."""
        self.news.check_alive()

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`, waiting pulls first."""
        with self._changing:
            self.news.end(why)
            self.gate.open()
        self.tables.end(why)

    def finish(self) -> None:
        """End the run for all workers, those that wait first."""
        LiveStore.end(  # and nothing more: a replica must still hear of it
            self,
            RunFinished(f"the run of {self.config.name} was ended by one of its workers, for all of them"),
        )

    @property
    def alive(self) -> bool:
        """Whether the store has not ended."""
        return self.news.alive

    def begin_move(self, next_map: ShardMap) -> None:
        """Hold the shard for the next map: nothing is applied from now on, but for what `settle` lets in.

        Raises:
            Aborted: It is held already.
        """
        with self._changing:
            self.check_serves()
            if self.next_map:
                raise Aborted(
                    f"values of {self.config.name} are moving already, to shard map {self.next_map.epoch}; wait until they have"
                )
            self.next_map = next_map
            self.gate.hold(NOTHING)

    def settle(self, cut: Cut, timeout_s: float, over: Callable[[], bool]) -> bool:
        """Let in what lies before `cut`, and return whether the shard came there in time, after `begin_move`.

        Args:
            over: Whether nobody wants it any more; `look_again` when that becomes true.
        """
        with self._changing:
            arrived = self.gate.reach(cut, self._shard.cut, timeout_s, over)
            self.check_serves()
            made = self._made()
        self._tell(made)
        return arrived

    def look_again(self) -> None:
        """Let `settle` see whether it is over."""
        with self._changing:
            self.gate.moved()

    def give_up_move(self) -> None:
        """Go on as if nothing had been."""
        with self._changing:
            self.next_map = None
            self.gate.open()

    def standing(self) -> Standing:
        """Say where the shard is in the run."""
        with self._changing:
            self.check_serves()
            self._shard.keep_gradients()  # a worker may take its own back before they have moved
            return self._shard.standing()

    def part(self, workers: Collection[int]) -> Part:
        """Return what of the shard can move, after `begin_move`."""
        return self._shard.part(workers)

    def hand_over(self, swap: Callable[[], None], why: HeadraceError) -> None:
        """Let `swap` put another store in the place of this one, which then ends with `why`; nothing comes in between.

        Raises:
            HeadraceError: Why the store has ended before, or what `swap` raised; nothing has changed.
        """
        with self._changing:
            self.check_serves()
            swap()
            self.news.end(why)
            self.gate.open()

    def forget_files(self) -> None:
        """Remove what is on the disk, after `end`."""
        if self.journal:
            self.journal.destroy()
