"""A shard that many calls use at once: one changes it at a time, any number reads or waits for news."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from headrace.errors import HeadraceError, ShardMapChanged
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.config import Norms, StoreConfig
from headrace_parameters.core.need import Need
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Published, Push, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.journal import Journal
from headrace_parameters.lateness import too_late
from headrace_parameters.live_tables import LiveTables
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.recycled import PrivateMemory, Recycled


class LiveStore:
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
        self.config = config
        self.create_time = create_time
        self.journal = journal
        self.memory = memory or PublishedMemory()
        self._shard = shard or Shard(config, self.memory.allocate)
        self.tables = LiveTables(config, reserve_rows)
        self._gradients = Recycled(PrivateMemory)
        self._visible = self._shard.published
        self._changes = self._shown = 0
        self._changing = threading.Lock()
        self._news = threading.Condition()
        self._ended: HeadraceError | None = None

    @property
    def layout(self) -> FlatLayout | None:
        """The tensors of the whole model; None before there are values."""
        return self._shard.layout

    @property
    def published(self) -> Published | None:
        """The newest values that are as safe as they must be; None before there are any."""
        return self._visible

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
            ShardMapChanged: The store has another one.
        """
        now = self.map
        if now and now.epoch != (epoch or 1):
            raise ShardMapChanged(
                f"{self.config.name} has shard map {now.epoch}, the caller {epoch or 1}; nothing was applied: "
                "get the store, then repeat the call with its shard map",
                metadata={"map_epoch": now.epoch},
            )

    def check_layout(self, layout: FlatLayout) -> None:
        """Raise ShapeMismatch if there are values of another model."""
        self._shard.check_layout(layout)

    def initialize(self, layout: FlatLayout, values: Floats) -> None:
        """Take the first values, shape (values held here,), unless there are some."""
        with self._changing:
            self._check_alive()
            if self._shard.published:
                self._shard.check_layout(layout)
                return
            first = Shard(self.config, self.memory.allocate)
            first.initialize(layout, values)
            self._become(first)

    def new_gradient(self) -> Floats:
        """Return memory for a gradient, with anything in it; there are values."""
        assert self.published is not None
        _, values = self._gradients.take(self.published.values.size)
        return values

    def is_duplicate(self, worker: int, step: int) -> bool:
        """Tell early what `push` will find, once that is as safe as an answer must be; it raises what `push` would."""
        with self._changing:
            duplicate = self._shard.is_duplicate(worker, step)
            position = self._position()
        if duplicate:
            self._wait_until_safe(position)
        return duplicate

    def push(self, push: Push) -> bool:
        """Take a gradient; return False if it was taken before.

        Raises:
            StorageFull, DataLoss: It could not be written, and was not applied.
        """
        sealed = Sealed.of(push) if self.journal else None
        with self._changing:
            self._check_alive()
            taken = self._shard.takes(push)
            if taken:
                self._apply(push, sealed)
            change, published, position = self._changes, self._shard.published, self._position()
        self._wait_until_safe(position)
        self._show(change, published)
        return taken

    def _apply(self, push: Push, sealed: Sealed | None) -> None:
        if self.journal and sealed:
            self.journal.append(sealed)  # before: what is applied can always be recovered
        self._shard.push(push)
        self._changes += 1
        if self.journal and self.journal.due and self._shard.between_steps:
            self.journal.snapshot(self._shard.state())

    def _become(self, shard: Shard) -> None:
        """Put another shard in the place of this one, once it is safe."""
        if self.journal:
            self.journal.rebase(shard.state())
        self._shard = shard
        self._changes += 1
        self._show(self._changes, shard.published)

    def _position(self) -> int:
        return self.journal.position if self.journal else 0

    def _wait_until_safe(self, position: int) -> None:
        if self.journal:
            self.journal.wait(position)

    def _show(self, change: int, published: Published | None) -> None:
        """Let pulls see what a change led to, unless they see a later one already."""
        with self._news:
            if change > self._shown:
                self._shown, self._visible = change, published
            self._news.notify_all()

    def need_for(self, step: int) -> Need:
        """Say what the values must hold with which a worker computes `step`."""
        return self._shard.need_for(step)

    def next_step(self, worker: int, published: Published) -> int:
        """Return the first step that this worker can compute with these values and whose gradient will be taken."""
        return self._shard.next_step(worker, published)

    def state(self) -> ShardState:
        """Return a copy of everything, of one moment."""
        with self._changing:
            self._check_alive()
            return replace(self._shard.state(), tables=self.tables.states())

    def restore(self, state: ShardState) -> None:
        """Become what `state` says."""
        with self._changing:
            self._check_alive()
            self._shard.check_layout(state.layout)
            restored = Shard(self.config, self.memory.allocate)
            restored.restore(state)
            tables = self.tables.restored(state.tables)
            self._become(restored)
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
        with self._changing:
            self._check_alive()
            self._shard.finish_step(step, norms, squared_norms)
            self._changes += 1
            change, published = self._changes, self._shard.published
        self._show(change, published)

    def wait_for_norms(
        self, step: int, norms: Norms, timeout_s: float, wanted: Callable[[], bool]
    ) -> Sequence[float] | None:
        """Return the squared norms of this shard's part of a step, once they are known; None: the step is long applied.

        Raises:
            DeadlineExceeded: They were not known in time.
            HeadraceError: Why the store ended meanwhile.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or self._knows(step, norms) or not wanted(), timeout_s)
        self._check_alive()
        measured = self._shard.measured.get(norms)
        if not self._knows(step, norms):
            raise too_late(self._shard, self.published, Need(version=step + 1))
        return measured.squared_norms if measured and measured.step == step else None

    def _knows(self, step: int, norms: Norms) -> bool:
        measured, published = self._shard.measured.get(norms), self.published
        if measured and measured.step >= step:
            return True
        return published is not None and published.version > step

    def wait(self, need: Need, timeout_s: float, wanted: Callable[[], bool]) -> Published:
        """Return the values as soon as they hold what `need` asks for.

        Args:
            wanted: Whether somebody still waits; asked again at every `wake`.
        Raises:
            DeadlineExceeded: It did not come in time; the message says whose gradients are missing.
            HeadraceError: Why the store ended meanwhile.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or self._fitting(need) or not wanted(), timeout=timeout_s)
        self._check_alive()
        published = self._fitting(need)
        if published is None:
            raise too_late(self._shard, self.published, need)
        return published

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`, waiting pulls first."""
        with self._changing:
            self._ended = why
        self.wake()
        self.tables.end(why)

    def forget_files(self) -> None:
        """Remove what is on the disk, after `end`."""
        if self.journal:
            self.journal.destroy()

    def wake(self) -> None:
        """Let every waiting call look again."""
        with self._news:
            self._news.notify_all()

    def _fitting(self, need: Need) -> Published | None:
        published = self.published
        return published if published and need.met_by(published.version, published.slowest) else None

    def _check_alive(self) -> None:
        if self._ended:
            # A fresh one each time: an exception that is raised in several threads mixes up their tracebacks.
            raise type(self._ended)(
                self._ended.message, metadata=self._ended.metadata, retry_after_s=self._ended.retry_after_s
            )
