# length: one table and its lock; every method is a rule of who waits for whom
"""One shard of a table that many calls use at once."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from headrace.errors import DeadlineExceeded, HeadraceError
from headrace.parameters.cut import Cut
from headrace.parameters.keys import Arcs, Keys
from headrace.parameters.layout import Floats
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.members import Members
from headrace_parameters.core.need import Need
from headrace_parameters.core.rows.part import TablePart
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.shard import RowShard
from headrace_parameters.core.rows.state import Moment, TableState
from headrace_parameters.core.rows.table import Counts, Reserve, compile_loops
from headrace_parameters.core.rows.turns import Progress
from headrace_parameters.safety import Positions, Safety


@dataclass(frozen=True)
class TableFacts:
    """What a table holds at a moment."""

    rows: int
    size_bytes: int
    version: int
    counts: Counts


@dataclass(frozen=True)
class _Seen:
    """What somebody has seen of a table, and how far everything must be before others may know of it."""

    shard: RowShard
    progress: Progress
    reached: Positions


class LiveTable:
    """Rows change in place: any number of calls reads them, or one changes them, and any number waits for others' pushes. A change
    goes before those that come after it, so that no number of readers keeps it waiting.

    Args:
        store: The store's.
        config: The table's, one of `store.tables`.
        reserve: Told the memory the table needs in all, in bytes, before it takes more; raises if there is none.
        members: Whose pushes count; None: those of the workers that the store is made for.
        safety: When others may know of a change; without a store: at once.
    """

    def __init__(
        self,
        store: StoreConfig,
        config: TableConfig,
        reserve: Reserve,
        members: Members | None = None,
        safety: Safety = Safety(),  # noqa: B008 - without a store it has no state
    ) -> None:
        self.store, self.config = store, config
        self._reserve = reserve
        compile_loops(config)
        self._shard = RowShard(store, config, reserve, members)
        self._safety = safety
        self._reached: Positions = ()  # how far everything must be before others may know of the last change
        self._shown = self._shard.turns.progress
        self._using = threading.Condition()
        self._readers = 0  # calls that read now
        self._changers = 0  # calls that change, or wait until nobody reads
        self._ended: HeadraceError | None = None

    @property
    def progress(self) -> Progress:
        """How far the table is, as far as others may know."""
        return self._shown

    @property
    def between_steps(self) -> bool:
        """Whether no push waits for others."""
        return self._shard.between_steps

    @property
    def _progress(self) -> Progress:
        return self._shard.turns.progress

    def facts(self) -> TableFacts:
        """Return what the table holds."""
        with self._using:
            table = self._shard.table
            return TableFacts(table.rows, table.size_bytes, self.progress.version, replace(table.counts))

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on; calls of an older generation that wait end with MembersChanged."""
        with self._using:
            self._shard.change_members(generation, workers)
            self._using.notify_all()

    def is_duplicate(self, worker: int, step: int, generation: int) -> bool:
        """Tell early what `push` will find, once that is as safe as an answer must be; it raises what `push` would."""
        with self._using:
            self._check_alive()
            duplicate = self._shard.turns.is_duplicate(worker, step, generation)
            seen = self._seen()
        if duplicate:
            self._tell(seen)
        return duplicate

    def takes(self, push: RowPush) -> bool:
        """Tell whether `push` would take this gradient, or raise what it would; changes nothing."""
        with self._using:
            self._check_alive()
            return self._shard.takes(push)

    def make_room(self, push: RowPush) -> None:
        """Make sure that `push` finds room, as `RowShard.make_room` does."""
        with self._changing():
            self._shard.make_room(push)

    def push(self, push: RowPush) -> bool:
        """Take a gradient; return False if it was taken before or comes too late. Others may know of it after `show`."""
        with self._changing():
            taken = self._shard.push(push)
            self._reached = self._safety.positions()
        return taken

    def show(self) -> None:
        """Let others know of what was pushed, once that is safe."""
        with self._using:
            seen = self._seen()
        self._tell(seen)

    def _seen(self) -> _Seen:
        return _Seen(self._shard, self._progress, self._reached)

    def _tell(self, seen: _Seen) -> None:
        """Return when others may know that the table is so far, or was, before a restore."""
        self._safety.wait(seen.reached)
        with self._using:
            if seen.shard is self._shard and seen.progress.version > self._shown.version:
                self._shown = seen.progress

    @property
    def held_norm(self) -> float | None:
        """The squared norm of the gradient of a complete step that waits to be clipped; None: there is none."""
        held = self._shard.held
        return held.squared_norm if held else None

    def finish(self, weight: float) -> None:
        """Apply that step, times a weight."""
        with self._changing():
            self._shard.finish(weight)
            self._reached = self._safety.positions()

    def next_step(self, worker: int) -> int:
        """Return the step that is taken next from this worker."""
        bsp = self.store.consistency is Consistency.BSP
        return self._shown.version if bsp else self._shard.turns.next_step(worker)

    def pull(
        self,
        keys: Keys,
        step: int | None,
        min_version: int,
        timeout_s: float,
        wanted: Callable[[], bool],
        out: Callable[[], Floats],
        generation: int | None = None,
    ) -> Progress:
        """Read rows as soon as the table is as far as `step` and `min_version` ask for.

        Args:
            step: What is to be computed with them; None: nothing.
            wanted: Whether somebody still waits; asked again at every `wake`.
            out: Gives memory for them, shape (n, dim), when it is time.
            generation: The caller's, whose push another one may have dropped; None: it is no member.
        Returns:
            How far the table is with these rows.
        Raises:
            DeadlineExceeded: It did not get as far in time; the message says whose pushes are missing.
            MembersChanged: There is another generation.
            HeadraceError: Why the store ended meanwhile.
        """
        with self._using:
            need = self._shard.turns.need_for(step) if step is not None else Need()
            need = replace(need, version=max(need.version, min_version))
            self._wait_to_read(need, timeout_s, wanted, generation)
            table, former, seen = self._shard.table, self._shard.former_for(step), self._seen()
            self._readers += 1
        try:
            table.pull(keys, out(), former)
        finally:
            with self._using:
                table.counts.pulled += keys.size
                self._read()
        self._tell(seen)  # rows change where they are: what was read may be newer than what is safe
        return seen.progress

    def _wait_to_read(
        self, need: Need, timeout_s: float, wanted: Callable[[], bool], generation: int | None
    ) -> None:
        """Return when rows may be read that have what is needed; it raises what `pull` does."""
        self._using.wait_for(
            lambda: self._ended or self._may_read(need) or not wanted() or self._in_vain(need, generation),
            timeout_s,
        )
        self._check_alive()
        if self._may_read(need):
            return
        if generation is not None and not self._is_met(need):
            self._shard.turns.members.check_generation(generation)
        raise self._too_late(need)

    def _read(self) -> None:
        self._readers -= 1
        self._using.notify_all()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let nobody else read or change rows."""
        with self._using:
            self._changers += 1
            try:
                self._using.wait_for(lambda: self._readers == 0)
                self._check_alive()
                yield
            finally:
                self._changers -= 1
                self._using.notify_all()

    def state(self, since: Moment | None = None) -> TableState:
        """Return a copy, as `RowShard.state` does, while nobody else may change the table; pulls go on."""
        with self._using:
            self._check_alive()
            self._readers += 1
        try:
            return self._shard.state(since)
        finally:
            with self._using:
                self._read()

    @property
    def waiting(self) -> tuple[RowPush, ...] | None:
        """Gradients that wait for others of their step; None: a complete step waits to be clipped."""
        return None if self._shard.held else tuple(self._shard.turns.pending.values())

    @property
    def pending(self) -> frozenset[int]:
        """Workers whose pushes wait for others of their step."""
        return frozenset(self._shard.turns.pending)

    def part(self, arcs: Arcs, workers: Collection[int]) -> TablePart:
        """Return what can move, as `RowShard.part` does."""
        with self._using:
            self._check_alive()
            return self._shard.part(arcs, workers)

    def taken_over(self, part: TablePart) -> RowShard:
        """Return what the table shall `become` to go on from `part`; it raises what `RowShard.take_over` does."""
        following = RowShard(self.store, self.config, self._reserve, self._shard.turns.members)
        following.take_over(part)
        return following

    def scan(self, slot: int, count: int) -> tuple[Keys, Floats, int]:
        """Return some of the rows, as `RowTable.scan` does."""
        with self._using:
            self._check_alive()
            found, seen = self._shard.table.scan(slot, count), self._seen()
        self._tell(seen)
        return found

    def cut(self) -> Cut:
        """Say where the table is: which step each worker pushes next."""
        turns = self._shard.turns
        return {worker: turns.next_step(worker) for worker in turns.members.workers}

    def standing(self) -> Cut:
        """Say where the table goes by what it has taken: a complete step that waits to be clipped counts."""
        waits = self._shard.held is not None
        return {worker: step + waits for worker, step in self.cut().items()}

    def restored(self, state: TableState | None, members: Members) -> RowShard:
        """Return what the table shall `become` to go on from `state`, with pushes of these members; None: without rows.

        Until then as much is reserved as the larger of the two needs.

        Raises:
            InvalidArgument, QuotaExceeded, ResourceExhausted: As `RowShard.restore`.
        """
        held = self.facts().size_bytes
        restored = RowShard(self.store, self.config, lambda needed: self._reserve(max(needed, held)), members)
        if state:
            restored.restore(state, members)
        return restored

    def become(self, shard: RowShard) -> None:
        """Go on from what `restored` returned."""
        with self._using:
            shard.reserve_by(self._reserve)
            self._shard, self._shown = shard, shard.turns.progress
            self._reached = self._safety.positions()
            self._using.notify_all()

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`, waiting pulls first."""
        with self._using:
            self._ended = why
            self._using.notify_all()

    def wake(self) -> None:
        """Let every waiting call look again."""
        with self._using:
            self._using.notify_all()

    def _in_vain(self, need: Need, generation: int | None) -> bool:
        """Whether a member waits for pushes that were dropped, because there are other members now."""
        return not self._is_met(need) and generation not in (None, self._shard.turns.members.generation)

    def _is_met(self, need: Need) -> bool:
        return need.met_by(self._progress.version, self._progress.slowest)

    def _may_read(self, need: Need) -> bool:
        return not self._changers and self._is_met(need)

    def _check_alive(self) -> None:
        if self._ended:
            # A fresh one each time: an exception that is raised in several threads mixes up their tracebacks.
            raise type(self._ended)(
                self._ended.message, metadata=self._ended.metadata, retry_after_s=self._ended.retry_after_s
            )

    def _too_late(self, need: Need) -> DeadlineExceeded:
        version = self._progress.version
        missing = self._shard.turns.missing_workers(need)
        step = max(need.clock - 1, version if self.store.consistency is Consistency.BSP else 0)
        why = f"the pushes of workers {missing} for step {step} are missing" if missing else "nobody pushed"
        if self._shard.held:
            why = (
                f"step {step} waits to be clipped with the dense gradients and other tables: push those first"
            )
        return DeadlineExceeded(
            f"table {self.config.name!r} of {self.store.name} did not get as far as asked in time, it has version {version}: {why}",
            metadata={"version": version, "missing_workers": ",".join(map(str, missing))},
        )
