"""One shard's part in a resharding: it is held, brought to a common point, put together anew beside itself, and changed.

Until `commit` the old shard is as it was, and `give_up` lets it go on. Source of the phases: two-phase commit (Gray 1978). Both processes of
a replicated shard take part, each for itself: so whichever of them serves later knows what it has agreed to.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from headrace.errors import Aborted, DeadlineExceeded, FailedPrecondition
from headrace.parameters.cut import Cut
from headrace.parameters.keys import Arcs
from headrace.parameters.ranges import shared
from headrace_optimizers.fused import kind_of, state_bytes
from headrace_parameters.assembly import Assembly
from headrace_parameters.core.exchange import Push
from headrace_parameters.core.kinds import Change
from headrace_parameters.core.rows.part import TablePart, whole
from headrace_parameters.core.rows.push import TablePush
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.standing import Pending, Point, Standing
from headrace_parameters.live import LiveStore
from headrace_parameters.move import Move, parts_of
from headrace_parameters.moving_wire import plan_to_proto
from headrace_parameters.plan import Plan
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.row_bytes import RoomBeside
from headrace_parameters.table import StoreTable

# What one shard has, the others get at once, or as soon as their worker repeats it; else the worker is gone, and nobody shall wait for it.
SETTLE_S = 10.0


class Sources(Protocol):
    """Gives parts of other shards."""

    def values(
        self, source: str, ranges: Sequence[range], workers: Collection[int], assembly: Assembly
    ) -> None:
        """Write the ranges that the shard at `source` holds to their places in `assembly`."""

    def rows(
        self, source: str, arcs: Arcs, workers: Mapping[str, Collection[int]]
    ) -> Mapping[str, TablePart]:
        """Return what the shard at `source` has of these arcs, with the gradients of these workers, of all tables."""


class Participant:
    """A store of this process in a resharding. One thread leads it; any number may find out how it ends.

    Args:
        staged: What a former process had staged, and died before it knew what was decided.
    Raises:
        FailedPrecondition: The store cannot take part, or is none of the plan's.
        Unavailable: Its replica has not caught up.
        Aborted: It takes part in another one.
    """

    def __init__(
        self, table: StoreTable, store: LiveStore, plan: Plan, staged: LiveStore | None = None
    ) -> None:
        self.store = store
        self.plan = plan
        self._table = table
        self._shard = store.config.shard_index
        self._staged = staged
        self._ending = threading.Lock()
        self._committed: bool | None = None  # not yet known
        self._room = RoomBeside(partial(table.reserve_rows, store.config.name), store.tables.sizes())
        if not staged:
            self._check()
        self.move = Move(store, plan.next)

    def _check(self) -> None:
        store, plan = self.store, self.plan
        store.check_takes_part(plan.terms.get(self._shard, 0), plan.replicas.get(self._shard, ""))
        if self._shard in plan.now.shards:
            fits = (
                store.map is not None
                and store.map.ranges == plan.now.ranges
                and store.map.epoch == plan.now.epoch
            )
        else:  # it joins, or left before
            fits = store.published is None and (store.config.joins or store.map is not None)
        if not fits:
            raise FailedPrecondition(
                f"shard {self._shard} of {store.config.name} is not as the resharding has it; ask it for its map"
            )

    @property
    def has_values(self) -> bool:
        """Whether the shard has values before the resharding."""
        return self._shard in self.plan.now.shards

    def settle(self, cut: Cut, timeout_s: float, over: Callable[[], bool]) -> Standing:
        """Let the shard apply what others have applied, and return where it is then.

        Raises:
            DeadlineExceeded: Workers did not bring it there in time.
        """
        if self.store.follows:  # its primary settles, and it has what that has
            return self.move.standing()
        if self.has_values and not self.move.settle(cut, min(timeout_s, SETTLE_S), over):
            raise DeadlineExceeded(
                f"shard {self._shard} of {self.store.config.name} is at {self.move.standing()}, others at {dict(cut)}; nothing has "
                "moved: try again when all workers run"
            )
        return self.move.standing()

    def stage(self, point: Point, sources: Sources) -> None:
        """Put the new shard together: from now on others decide.

        Args:
            point: Where the shards are that have values.
        Raises:
            HeadraceError: It cannot be; most likely the memory does not suffice, or a source is gone.
        """
        self.store.wait_for_record(point.records.get(self._shard, 0))
        self._put_together(point.kept, sources)
        if not self._staged_in_term():
            raise FailedPrecondition(
                f"another process serves shard {self._shard} of {self.store.config.name} by now"
            )

    def _staged_in_term(self) -> bool:
        return self.store.term == self.plan.terms.get(self._shard, 0)

    def _put_together(self, kept: Pending, sources: Sources) -> None:
        plan, store = self.plan, self.store
        config, memory = store.config.among(len(plan.next.shards)), PublishedMemory()
        shard, gradients = Shard(config, memory), dict[int, Push]()
        if self._shard in plan.next.shards:
            size = plan.next.length(self._shard)
            needed = 4 * size + state_bytes(config.optimizer, size)
            self._table.reserve_bytes(store, max(store.size_bytes, needed))
            state, found = self._assembled(kept.dense, sources).finished(kind_of(config.optimizer))
            gradients.update(found)
            shard.take_over(state, gradients)
        else:
            shard.layout, shard.map = plan.layout, plan.next  # it has left, and can tell where everything is
        self._staged = store.beside(shard, memory, self._room)
        waiting: list[Change] = [*gradients.values()]
        if self._shard in plan.next.shards:
            waiting += self._stage_rows(self._staged, kept.rows, sources)
        self._staged.journal = self._table.stage(store, plan_to_proto(plan), self._staged, waiting)

    def _stage_rows(
        self, staged: LiveStore, kept: Mapping[str, Collection[int]], sources: Sources
    ) -> list[TablePush]:
        """Put the tables together, and return the gradients of rows for the step that is not complete.

        Args:
            kept: Whose gradients of rows go on, of all tables there are; a shard that joins may not know of them yet.
        """
        plan, mine = self.plan, self.plan.next.arc_owners == self._shard
        now = plan.now.arc_owners
        found: list[Mapping[str, TablePart]] = []
        for source in plan.now.shards if kept else ():
            arcs = mine & (now == source)
            if source == self._shard:
                found.append(dict(parts_of(self.store, arcs, kept)))
            elif arcs.any():
                found.append(sources.rows(plan.now.addresses[source], arcs, kept))
        parts = {name: whole([part[name] for part in found]) for name in found[0]} if found else {}
        states = {name: part.state for name, part in parts.items()}
        staged.add_tables(staged.tables.declared_in(states, staged.members))
        staged.tables.take_over(parts)
        return [TablePush(name, push) for name, part in parts.items() for push in part.pushes.values()]

    def _assembled(self, workers: Collection[int], sources: Sources) -> Assembly:
        plan = self.plan
        assembly = Assembly(plan.layout, plan.next, self._shard)
        if self.has_values:
            assembly.copy(self.move.part(workers), plan.now.held(self._shard))
        for source in plan.now.shards:
            ranges = [place.values for place in shared(plan.now.held(source), plan.next.held(self._shard))]
            if ranges and source != self._shard:
                sources.values(plan.now.addresses[source], ranges, workers, assembly)
        return assembly

    def commit(self) -> None:
        """Change to the next map, unless that was done before.

        Raises:
            Aborted: It has given up.
            HeadraceError: It cannot be done now.
        """
        with self._ending:
            if self._committed is False:
                raise Aborted(
                    f"shard {self._shard} of {self.store.config.name} has given up to change its map"
                )
            if self._committed is None:
                assert self._staged is not None, "a shard that has not staged cannot commit"
                self._room.alone()
                self._table.replace(self.store, self._staged, self.move)
                self._committed = True

    @property
    def ended(self) -> bool:
        """Whether it has changed, or given up."""
        return self._committed is not None

    def clear(self) -> None:
        """Remove the files of the old shard, which no restart would look at any more."""
        self.store.forget_files()

    def give_up(self) -> None:
        """Go on as before, unless that was done, or it has changed."""
        with self._ending:
            if self._committed is None:
                if self._staged:
                    self._staged.forget_files()  # first: a restart shall find one state from now on
                self.store.keep_in(self.store.journal, kept=True)
                self._table.keep(self.store)
                self.move.give_up()
                self._committed = False

    def leave(self) -> None:
        """Let go of what is staged, without an answer; a later process of the folder goes on to look for it."""
        with self._ending:
            if not self.ended and self._staged and self._staged.journal:
                self._staged.journal.close()
