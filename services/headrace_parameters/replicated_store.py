# length: one object and its lock, on either side of the connection; every method is a rule of who may do what
"""A store that two processes hold, seen from either of them: every change goes to the replica before anyone is told."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import FailedPrecondition, HeadraceError, NotPrimary, Unavailable
from headrace.parameters.layout import Floats
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.exchange import GradientLost
from headrace_parameters.core.kinds import Change, loan_of, takes
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.resuming import resumed
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.core.tenure import Assignment, Role, Tenure
from headrace_parameters.journal.journal import Journal
from headrace_parameters.journal.tenure_file import write_tenure
from headrace_parameters.live import LiveStore
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.replication.feed import Feed
from headrace_parameters.replication.replicated import Replicated

if TYPE_CHECKING:  # it compiles loops, which no process without a table needs
    from headrace_parameters.core.rows.shard import RowShard


class ReplicatedStore(LiveStore):
    """As `LiveStore`; a process that is not the primary refuses with NotPrimary whatever callers of a store want.

    Args:
        tenure: What this process is; None: what its config says.
        beside: The store of this process whose place this one may take: what the process is, is said of both.
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
        *,
        tenure: Tenure | None = None,
        beside: "ReplicatedStore | None" = None,
    ) -> None:
        assert config.assignment is not None
        own = Replicated(str(config.name), tenure or Tenure.first(config.assignment))
        self.replicated: Replicated = beside.replicated if beside else own
        super().__init__(config, create_time, shard, journal, memory, reserve_rows, tables)
        if journal and not beside:
            self.keep_in(journal)
        # Gradients, which a replica on this machine reads where they are.
        self.lent: PublishedMemory = beside.lent if beside else PublishedMemory()
        self._feed: Feed | None = None
        self._follower: ReplicatedStore | None = None  # what acts in the place of this one

    @property
    def term(self) -> int:
        """The greatest term this process has seen."""
        return self.replicated.tenure.term

    def keep(self, journal: Journal) -> None:
        """Write what there is, and from now on every change and every tenure, to a journal."""
        super().keep(journal)
        self.keep_in(journal)

    def beside(
        self, shard: Shard, memory: PublishedMemory, reserve_rows: Callable[[str, int], None]
    ) -> LiveStore:
        """Make another one of this process's, which may take this one's place."""
        return ReplicatedStore(
            self.config, self.create_time, shard, memory=memory, reserve_rows=reserve_rows, beside=self
        )

    def keep_in(self, *journals: Journal | None, kept: bool = False) -> None:
        """Keep every tenure beside these logs, from now on."""

        def keep(tenure: Tenure) -> None:
            for journal in journals:
                if journal:
                    write_tenure(journal, tenure)

        self.replicated.keep_by(keep, kept=kept)

    def followed_by(self, following: LiveStore) -> None:
        """Let another one act in the place of this one, under `changing`."""
        assert isinstance(following, ReplicatedStore)
        self._follower = following
        if self._feed:
            self._feed.end()
        following.open()

    def moved(self) -> None:
        """Give a replica that waited for it the whole store."""
        self.offer_base()

    @property
    def serves(self) -> bool:
        """Whether this process is the primary."""
        return self.replicated.tenure.role is Role.PRIMARY

    @property
    def follows(self) -> bool:
        """Whether this process is the replica."""
        return self.replicated.tenure.role is Role.REPLICA

    def check_takes_part(self, term: int, replica: str) -> None:
        """Raise unless this process is primary or replica in this term, and both have all that was acknowledged."""
        self.replicated.tenure.check_moves(term, replica, str(self.config.name))

    def wait_for_record(self, number: int) -> None:
        """Return when a replica has this record, and no more; it raises what `Replicated.wait_to_hold` does."""
        if self.follows:
            self.replicated.wait_to_hold(number)

    @property
    def record(self) -> int:
        """The last record that this process has."""
        return self.replicated.record

    def open(self) -> None:
        """Begin to send to the replica, if there is one, now that others may have the store."""
        with self.changing:
            self._feed_replica()

    def _feed_replica(self) -> None:
        if self._feed:
            self._feed.end()
        tenure = self.replicated.tenure
        self._feed = Feed(self, self.replicated, tenure, self.lent) if tenure.replica else None

    def assign(self, order: Assignment) -> None:
        """Be what the authority says.

        Raises:
            StaleTerm, FailedPrecondition: As `Tenure.assigned`.
        """
        with self.changing:  # no record of another term comes in between
            following = self._follower
            changes = not following and self.replicated.assign(order)
            if changes:
                self._feed_replica()
            made = self.made()
            finished = self.replicated.tenure.finished
        if following:
            following.assign(order)
        if not changes:
            return
        self.tell(made)  # at once: a primary in a new term may always acknowledge what it has
        self.tables.show()
        if finished:
            self.end_run()

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`."""
        super().end(why)
        if self._feed:
            self._feed.end()

    def finish(self) -> None:
        """End the run for all workers, once the replica knows it too; ReplicaUnreachable if it does not say so in time."""
        self.replicated.finish()
        self.end_run()
        if self._follower:  # by now
            self._follower.end_run()

    def new_memory(self, size: int) -> Floats:
        """Return memory for what is received, shape (size,), with anything in it; a replica can read it."""
        return self.lent.allocate(size)

    def memory_of_its_own(self, size: int) -> Floats:
        """Return memory for what came from the primary, shape (size,), with anything in it."""
        return super().new_memory(size)

    @property
    def takes_loans(self) -> bool:
        """Whether a gradient may stay where its worker has it: the replica copies it from there, or there is none."""
        return not self.replicated.tenure.replica or (self._feed is not None and self._feed.shares_memory)

    @property
    def recorded(self) -> bool:
        """Whether the log or the replica may have what was taken."""
        return super().recorded or bool(self.replicated.tenure.replica)

    def _settle(self) -> None:
        super()._settle()
        if not self.replicated.keep_loans(self._copied):
            raise GradientLost(
                f"{self.config.name} lost a gradient that was to go to its replica: its worker wrote to it"
            )

    def _copied(self, payload: memoryview) -> memoryview:
        """Copy a payload to where a replica can read it."""
        source = np.frombuffer(payload, np.uint8)
        copy = self.lent.allocate(source.size // 4).view(np.uint8)  # payloads are a multiple of 4 bytes long
        copy[:] = source
        return copy.data

    def lose(self, number: int) -> None:
        """End: a worker wrote to the gradient of this record before the replica had it."""
        self.end(
            GradientLost(f"record {number} of {self.config.name} was written to on its way to the replica")
        )

    # The primary's side of a change

    def _seal(self, change: Change) -> Sealed | None:
        # Now, while nobody waits: the log and the replica have one checksum.
        return Sealed.of(change, summed=self.config.durability.logged).summed_up()

    def _write(self, sealed: Sealed | None) -> None:
        super()._write(sealed)
        if sealed and self.replicated.tenure.role is Role.PRIMARY:
            # Before it is applied: meanwhile it is on its way.
            header, payload = sealed.encode(self.replicated.position + 1, self.config.epoch)
            self.replicated.add(header, payload, loan_of(sealed.change), self._copied)

    def _apply(self, change: Change) -> None:
        super()._apply(change)
        self._begin_replica()

    def _rebase(self, state: Callable[[], ShardState]) -> None:
        found = state()
        super()._rebase(lambda: found)
        if self.replicated.tenure.role is Role.PRIMARY:
            self.replicated.become(found)

    def offer_base(self) -> None:
        """Give the replica the whole store if it waits for it, and no step is half done."""
        with self.changing:
            self._begin_replica()

    def _begin_replica(self) -> None:
        # While values move it would begin with what is about to be replaced.
        if self.replicated.base_wanted and self.between_steps and not self.next_map:
            self.replicated.begin(self.state() if self._shard.published else None)

    def positions(self) -> tuple[int, ...]:
        """Say how far everything is that must follow; for `wait_until_safe`."""
        return (*super().positions(), self.replicated.position)

    def wait_until_safe(self, positions: tuple[int, ...]) -> None:
        """Return when everything has followed as far; raise why it will not."""
        self.replicated.wait(positions[-1])
        super().wait_until_safe(positions)

    def check_serves(self) -> None:
        """Raise why nobody can use the store here: it ended, or another process is its primary."""
        self.news.check_alive()
        self.replicated.check_serves()

    def stop_serving(self) -> None:
        """Make every call end with NotPrimary, those that wait first, once that is so."""
        try:
            self.replicated.check_serves()
        except NotPrimary as why:
            self.news.end(why)
            self.tables.end(why)

    # The replica's side

    def follow(self, term: int, number: int, sealed: Sealed) -> None:
        """Make a change that the primary has made; do nothing if it was made before.

        Raises:
            StaleTerm, FailedPrecondition: As `Replicated.follows`.
            StorageFull, DataLoss: It could not be written.
        """
        with self.changing:
            self.news.check_alive()
            if not self.replicated.follows(term, number, base=False):
                return
            self._check_fits(number, sealed.change)
            self._write(sealed)
            self.replicated.hold(number)  # the primary is told while it is applied
            self._apply(sealed.change)
            made = self.made()
        self.visibility.show(made)

    def _check_fits(self, number: int, change: Change) -> None:
        """Discard what is here if the primary has made a change that cannot be made here."""
        why = "it was made before"
        try:
            if takes(self.contents, change):
                return
        except HeadraceError as error:  # it was none on the primary
            why = error.message
        self.replicated.diverge()
        raise FailedPrecondition(
            f"record {number} of {self.config.name} does not fit what is here ({why}), which is discarded: the replica begins anew"
        )

    def follow_base(self, term: int, number: int, state: ShardState | None) -> None:
        """Become what the primary is after record `number`; None: it has no values yet. Do nothing if more than that is here."""
        with self.changing:
            self.news.check_alive()
            if not self.replicated.follows(term, number, base=True):
                return
            if state:
                self.become(resumed(state, self.config, self.memory, self.members), state.tables)
            self.replicated.hold(number)
            made = self.made()
        self.visibility.show(made)

    def check_changed_with(self, map_epoch: int) -> None:
        """Let only a primary send records that goes by the same shard map; one that sends to a new replica may have any.

        Raises:
            Unavailable: One of the two has changed, and the other one will.
        """
        own = self.map.epoch if self.map else 0
        new = not (self.map or self.next_map)
        if map_epoch != own and not new:
            raise Unavailable(
                f"{self.config.name} goes by shard map {own} here, its primary by {map_epoch}; try again soon"
            )

    def wait_until_logged(self) -> None:
        """Return when everything that is held is in the log, at the store's level."""
        if self.journal:
            self.journal.wait(self.journal.position)
