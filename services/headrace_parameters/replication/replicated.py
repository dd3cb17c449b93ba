# length: one lock and all that it guards, on either side of the connection
"""One process's side of a replicated store: what it is in this term, what its replica still lacks, and what is safe to tell.

    replicated.check_serves()                 # before anything; raises NotPrimary
    replicated.add(header, payload)           # a change that was made, under the store's lock
    replicated.wait(replicated.position)      # before anybody is told

The store's lock comes first, then the one in here.
"""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from headrace.errors import FailedPrecondition, HeadraceError, NotPrimary, ReplicaUnreachable
from headrace_parameters.core.exchange import Loan
from headrace_parameters.core.outbox import Base, Copied, Item, Outbox
from headrace_parameters.core.silence import Silence
from headrace_parameters.core.state import ShardState
from headrace_parameters.core.tenure import Assignment, Role, Tenure

# A replica that answers takes milliseconds. Whoever waits longer shall look whether it has become the primary.
CONFIRM_S = 2.0
# A replica that catches up is a few records behind when the primary begins to wait for it.
NEARLY = 8
# While it catches up, pushes slow down to its pace rather than fill the memory.
MOST_BACKLOG_BYTES = 1 << 30

log = structlog.get_logger(__name__)

Keep = Callable[[Tenure], None]


def _keep_nothing(_: Tenure) -> None:
    pass


def _in_new_memory(payload: memoryview) -> memoryview:
    return memoryview(bytearray(payload))


class Replicated:
    """A process's tenure, and the records on their way from a primary to its replica.

    Args:
        store: Its name, for messages.
        tenure: What the process is at first.
        now: The time, in seconds; it never goes back.
    """

    def __init__(self, store: str, tenure: Tenure, now: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.changed = threading.Condition()
        # All below is guarded by `changed`.
        self._keep: Keep = _keep_nothing
        self._tenure = tenure
        self._outbox = Outbox()
        self._held: int | None = None  # of a replica: the last record it has
        self.successor = ""  # of a deposed primary: who is it now
        self._connected = False
        self._base_wanted = bool(tenure.replica)
        self._marked: int | None = (
            None  # the replica is told that it is synced once it has been sent this record
        )
        self._told_finished = False  # the replica knows that the run is over
        self.why = "it has not answered yet"  # nothing more is heard of it
        self._silence = Silence(now)
        self._silence.moved(waits=bool(tenure.replica))
        # Of a replica: records whose payload it reads where the primary has it. Entries go with the arrays, in whichever thread drops these.
        self.in_use: dict[int, None] = {}

    @property
    def tenure(self) -> Tenure:
        """What the process is now."""
        return self._tenure

    @property
    def held(self) -> int | None:
        """Of a replica: number of the last record it has."""
        return self._held

    @property
    def record(self) -> int:
        """Number of the last record here, whatever the process is."""
        return self._outbox.number if self._held is None else self._held

    def wait_to_hold(self, number: int) -> None:
        """Return when a replica holds this record, and no other came after it.

        Raises:
            FailedPrecondition: It does not in time, or has more.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.record >= number, CONFIRM_S)
            if self.record != number:
                raise FailedPrecondition(
                    f"the replica of {self.store} holds record {self.record} and not {number}, its primary's last one; try again"
                )

    @property
    def lag_records(self) -> int:
        """Of a primary: records that the replica is not known to hold."""
        return len(self._outbox)

    @property
    def silence_s(self) -> float:
        """Of a primary: for how long its replica has confirmed nothing of what waits for it, or could not be reached.

        0 while it receives a base, which may take as long as it likes.
        """
        with self.changed:
            receives = self._connected and isinstance(next(iter(self._outbox), None), Base)
            return 0.0 if receives else self._silence.seconds

    def keep_by(self, keep: Keep, *, kept: bool = False) -> None:
        """Let every tenure, and the present one unless that is `kept`, survive the process before anything follows from it."""
        with self.changed:
            if not kept:
                keep(self._tenure)
            self._keep = keep

    def check_serves(self) -> None:
        """Raise NotPrimary unless this process serves the store."""
        tenure = self._tenure
        if tenure.role is not Role.PRIMARY:
            where = f", {self.successor} was its replica" if self.successor else ""
            raise NotPrimary(
                f"{self.store} is {tenure.role.value} here in term {tenure.term}{where}; ask its primary",
                metadata={"term": tenure.term, "primary": self.successor},
            )

    # What the authority says

    def assign(self, order: Assignment) -> bool:
        """Follow an order; return whether anything changed.

        Raises:
            StaleTerm, FailedPrecondition: As `Tenure.assigned`.
        """
        with self.changed:
            tenure = self._tenure.assigned(order, self.store)
            if tenure is self._tenure:
                return False
            promoted = self._tenure.role is not Role.PRIMARY
            self._become(tenure)
            if promoted:
                self._outbox = Outbox(self._held or 0)
                self._held = None
            self._outbox.drop()
            self._connected, self._marked, self._told_finished = False, None, False
            self._base_wanted = bool(tenure.replica)
            self._silence.moved(waits=self._base_wanted)
            return True

    def _become(self, tenure: Tenure) -> None:
        self._keep(tenure)
        self._tenure = tenure
        log.info("store_assigned", store=self.store, role=tenure.role.value, **_facts(tenure))
        self.changed.notify_all()

    # What a primary does

    @property
    def position(self) -> int:
        """Number of the last change; for `wait`."""
        return self._outbox.number

    def add(
        self, header: bytes, payload: memoryview, loan: Loan | None = None, copied: Copied = _in_new_memory
    ) -> None:
        """Send a change to the replica, if there is one.

        Args:
            loan: As of a `Record`: it holds until `wait` has returned, or `keep_loans`.
        """
        with self.changed:
            tenure = self._tenure
            if tenure.replica and not tenure.needs_replica and not self._connected:
                self._outbox.drop()  # nobody waits for it, and it may be away for long
                self._base_wanted = True
            if tenure.replica and not self._base_wanted:
                if loan and not tenure.needs_replica:  # then nobody waits until it has been sent
                    payload, loan = copied(payload), None
                self._outbox.add(header, payload, loan)
                self._silence.waits()
                self.changed.notify_all()
            else:
                self._outbox.number += 1  # there is no replica, or the base it begins with will have it

    def keep_loans(self, copied: Copied) -> bool:
        """Let no payload lie in a worker's memory any more; return False, with nothing changed, if one is not as it was."""
        with self.changed:
            return self._outbox.keep_loans(copied)

    def become(self, state: ShardState) -> None:
        """Send what the store has become at once."""
        with self.changed:
            if self._tenure.replica:
                self._outbox.become(state)
                self._silence.waits()
                self._base_wanted = False
                self.changed.notify_all()
            else:
                self._outbox.number += 1

    @property
    def base_wanted(self) -> bool:
        """Whether the replica waits for the whole store; see `begin`."""
        return self._base_wanted and self._connected

    def begin(self, state: ShardState | None) -> None:
        """Give the replica the whole store as it is now, between two steps."""
        with self.changed:
            self._outbox.begin(state)
            self._silence.waits()
            self._base_wanted = False
            self.changed.notify_all()

    def wait(self, position: int) -> None:
        """Return when everything up to `position` may be told.

        Raises:
            NotPrimary: It turned out that another process serves the store.
            ReplicaUnreachable: The replica has not confirmed it in time; it may yet.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._may_go_on(position), CONFIRM_S)
            self.check_serves()
            if not self.may_tell(position):
                raise self._unreachable()

    def finish(self) -> None:
        """Return when whoever serves the store from now on knows that the run is over.

        Raises:
            NotPrimary, ReplicaUnreachable: As `wait`.
        """
        with self.changed:
            self.check_serves()
            if not self._tenure.finished:
                self._become(replace(self._tenure, finished=True))
            self.changed.wait_for(lambda: self.may_tell_finished or not self._serves, CONFIRM_S)
            self.check_serves()
            if not self.may_tell_finished:
                raise self._unreachable()

    @property
    def may_tell_finished(self) -> bool:
        """Whether the end of the run is as safe as it must be before anyone is told."""
        known = self._told_finished and self._tenure.synced
        return self._serves and (not self._tenure.needs_replica or known)

    @property
    def _serves(self) -> bool:
        return self._tenure.role is Role.PRIMARY

    def _unreachable(self) -> ReplicaUnreachable:
        return ReplicaUnreachable(
            f"the replica of {self.store} at {self._tenure.replica} has not confirmed the change within "
            f"{CONFIRM_S:g} s: {self.why}; repeat it, here or there",
            metadata={"term": self._tenure.term, "replica": self._tenure.replica},
        )

    def may_tell(self, position: int) -> bool:
        """Tell whether everything up to `position` is as safe as it must be before anyone is told."""
        if not self._serves:
            return False
        # Held is not enough as long as the replica does not know that it has everything: nobody could promote it.
        return not self._tenure.needs_replica or (self._tenure.synced and self._is_held(position))

    def _may_go_on(self, position: int) -> bool:
        if not self._serves:
            return True
        if self._tenure.needs_replica:
            return self.may_tell(position)
        return not self._connected or self._outbox.backlog_bytes <= MOST_BACKLOG_BYTES

    def _is_held(self, position: int) -> bool:
        first = next(iter(self._outbox), None)
        return not self._base_wanted and (first is None or position < first.number)

    # What the connection to the replica does; each call is void once the term is another

    def connected(self, term: int, held: int | None) -> bool:
        """Take note that the replica answers; return False if the connection is of no use any more."""
        with self.changed:
            if not self._is_primary(term):
                return False
            self._connected, self.why, self._marked = True, "it is slow", None
            if held is None and self._tenure.synced:  # it has discarded what it had
                self._become(self._tenure.diverged())
            self._base_wanted = self._base_wanted or not self._outbox.leads_on_from(held)
            if not self._outbox:
                self._silence.moved(waits=False)
            self.changed.notify_all()
            return True

    def disconnected(self, term: int, why: HeadraceError) -> None:
        """Take note that it does not."""
        with self.changed:
            if self._is_primary(term):
                self._connected, self.why = False, why.message
                self._silence.waits()
                self.changed.notify_all()

    def confirmed(
        self,
        term: int,
        held: int | None,
        in_use: Collection[int],
        *,
        synced: bool,
        finished: bool = False,
    ) -> None:
        """Take note of what the replica holds."""
        with self.changed:
            if not self._is_primary(term):
                return
            waiting = len(self._outbox)
            if held is not None:
                self._outbox.confirm(held, in_use)
            if len(self._outbox) < waiting:
                self._silence.moved(waits=bool(self._outbox))
            self._told_finished = self._told_finished or finished
            if synced and self._marked is not None and not self._tenure.synced:
                self._become(self._tenure.caught_up())
            elif held is not None and self._marked is None and not self._base_wanted:
                self._mark()
            self.changed.notify_all()

    def _mark(self) -> None:
        """Begin to wait for a replica that has nearly everything; it will be told once it was sent the rest."""
        if len(self._outbox) <= NEARLY:
            self._marked = self._outbox.number
            if not self._tenure.needs_replica:
                self._tenure = replace(self._tenure, waits=True)

    def next_item(self, sent: Item | None, held: int | None) -> Item | None:
        """Return what to send after `sent`; None: nothing yet."""
        return None if self._base_wanted else self._outbox.after(sent, held)

    def marker_is_due(self, sent: Item | None, held: int | None) -> bool:
        """Tell whether the replica has been sent all it needs to be synced."""
        if self._marked is None or (self._tenure.finished and not self._told_finished):
            return False
        reached = sent.number if sent is not None else held
        return reached is not None and reached >= self._marked

    def depose(self, term: int, successor: str) -> None:
        """Take note that a greater term has begun elsewhere: serve nothing any more."""
        with self.changed:
            if self._serves and term > self._tenure.term:
                self.successor = successor
                self._become(self._tenure.deposed(term))

    def _is_primary(self, term: int) -> bool:
        return self._serves and self._tenure.term == term

    # What a replica does, under the store's lock

    def follows(self, term: int, number: int, *, base: bool) -> bool:
        """Tell whether a record is the next one, or a base one to go on from; False: what it brings is there already.

        Raises:
            StaleTerm, FailedPrecondition: It is not the primary that sends it, or one before it is missing.
        """
        self._tenure.check_follows(term, self.store)
        if base:  # an older one comes late, by a connection that was given up
            return self._held is None or number >= self._held
        if self._held is not None and number == self._held + 1:
            return True
        if self._held is None or number > self._held:
            raise FailedPrecondition(f"{self.store} holds records up to {self._held} here, {number} came")
        return False

    def hold(self, number: int) -> None:
        """Take note that a record is here to stay."""
        with self.changed:
            self._held = number
            self.changed.notify_all()

    def diverge(self) -> None:
        """Take note that what is here is not what the primary has, so that it is worth nothing: begin anew with a base."""
        with self.changed:
            self._held = None
            self._become(self._tenure.diverged())

    def run_finished(self, term: int) -> None:
        """Believe the primary that the run is over."""
        with self.changed:
            self._tenure.check_follows(term, self.store)
            if not self._tenure.finished:
                self._become(replace(self._tenure, finished=True))

    def caught_up(self, term: int) -> None:
        """Believe the primary that nothing is missing."""
        with self.changed:
            self._tenure.check_follows(term, self.store)
            if not self._tenure.synced:
                self._become(self._tenure.caught_up())

    def end(self) -> None:
        """Let whoever waits look again."""
        with self.changed:
            self.changed.notify_all()


def _facts(tenure: Tenure) -> dict[str, object]:
    facts: dict[str, object] = {"term": tenure.term, "replica": tenure.replica, "synced": tenure.synced}
    return {**facts, "finished": True} if tenure.finished else facts
