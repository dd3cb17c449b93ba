"""Who serves a replicated store, term by term: what a process may be told, and what follows for it.

One authority, the scheduler, decides: it hands out terms, each with one primary and at most one replica. Nothing here needs a clock. A
primary that is paired acknowledges only what its replica holds, and a replica that was promoted takes nothing of smaller terms any
more: so from that moment on the old primary, frozen, cut off or merely slow, can acknowledge nothing, whether it knows or not.
"""

from dataclasses import dataclass, replace
from enum import Enum

from headrace.errors import FailedPrecondition, InvalidArgument, StaleTerm, Unavailable


class Role(Enum):
    """What a process is to a store."""

    PRIMARY = "primary"
    REPLICA = "replica"
    STANDBY = "standby"  # it waits for a term: recovered, or deposed


@dataclass(frozen=True)
class Assignment:
    """What the authority tells a process.

    Args:
        term: 1 or more.
        replica: Of a primary: address of the replica; empty: there is none.
    """

    term: int
    role: Role
    replica: str = ""

    def __post_init__(self) -> None:
        _check("term", self.term, "1 or more", self.term >= 1)
        _check("role", self.role.value, "primary or replica", self.role is not Role.STANDBY)
        fits = self.role is Role.PRIMARY or not self.replica
        _check("replica", self.replica, "empty for a replica", fits)


def _check(field: str, value: object, rule: str, holds: bool) -> None:
    if not holds:
        raise InvalidArgument(
            f"assignment.{field} is {value!r}; it must be {rule}", field=f"assignment.{field}"
        )


@dataclass(frozen=True)
class Tenure:
    """What a process is to a store now.

    Args:
        term: The greatest it has seen.
        replica: As in `Assignment`.
        synced: Primary: the replica has everything, and is waited for. Replica: the primary said so, so that it may be promoted.
            Standby: it has everything that it acknowledged, or held when it was a synced replica.
        waits: Primary with a replica that is not synced: it acknowledges nothing until it is. True from the beginning of a store on;
            False where the authority gives a new replica to a primary that has served alone.
        finished: The run is over, whoever serves.
    """

    term: int
    role: Role
    replica: str = ""
    synced: bool = False
    waits: bool = False
    finished: bool = False

    @classmethod
    def first(cls, assignment: Assignment) -> "Tenure":
        """Begin with a new store."""
        paired = bool(assignment.replica)
        return cls(assignment.term, assignment.role, assignment.replica, waits=paired)

    @property
    def assignment(self) -> Assignment | None:
        """What led to it; None for a standby."""
        return None if self.role is Role.STANDBY else Assignment(self.term, self.role, self.replica)

    @property
    def needs_replica(self) -> bool:
        """Whether nothing may be acknowledged that the replica does not hold."""
        return bool(self.replica) and (self.synced or self.waits)

    def assigned(self, order: Assignment, store: str) -> "Tenure":
        """Return what follows from an order; the same tenure if it is a repeat.

        Raises:
            StaleTerm: A greater term has been seen.
            FailedPrecondition: The term was given out otherwise, or the store here lacks something that was acknowledged.
        """
        if order == self.assignment:
            return self
        self.check_not_stale(order.term, store)
        if order.term == self.term:
            raise FailedPrecondition(
                f"term {order.term} of {store} is taken here: {self.role.value}; assign a greater term",
                metadata={"term": self.term},
            )
        if order.role is Role.REPLICA:
            raise FailedPrecondition(
                f"{store} is {self.role.value} here; delete it here, and create it again as a replica",
                metadata={"term": self.term},
            )
        if self.role is not Role.PRIMARY and not self.synced:
            raise FailedPrecondition(
                f"{store} has not caught up here as {self.role.value}, and cannot be its primary: acknowledged pushes are missing",
                metadata={"term": self.term},
            )
        return Tenure(order.term, Role.PRIMARY, order.replica, finished=self.finished)

    def check_not_stale(self, term: int, store: str) -> None:
        """Raise StaleTerm if a greater term has been seen."""
        if term < self.term:
            raise StaleTerm(
                f"{store} is in term {self.term} here, the caller in {term}; stop, another process serves it",
                metadata={"term": self.term},
            )

    def check_follows(self, term: int, store: str) -> None:
        """Raise unless the primary of this term may send records here.

        Raises:
            StaleTerm: The sender is not the primary any more.
            FailedPrecondition: This is no replica, or not in this term.
        """
        self.check_not_stale(term, store)
        if self.role is not Role.REPLICA or term > self.term:
            raise FailedPrecondition(
                f"{store} is {self.role.value} of term {self.term} here, and no replica in term {term}; assign it first",
                metadata={"term": self.term},
            )

    def check_moves(self, term: int, replica: str, store: str) -> None:
        """Raise unless values may move from or to a process of this term, whose shard has this replica; empty: none.

        Raises:
            FailedPrecondition: It is not what it was thought to be.
            Unavailable: The replica has not caught up: nobody could serve the shard if the primary were lost now.
        """
        known = (
            replica if self.role is Role.REPLICA else self.role is Role.PRIMARY and self.replica == replica
        )
        if term != self.term or not known:
            raise FailedPrecondition(
                f"{store} is {self.role.value} of term {self.term} here, with replica {self.replica!r}; it was thought to be of term "
                f"{term} with replica {replica!r}",
                metadata={"term": self.term},
            )
        if replica and not self.synced:
            raise Unavailable(f"the replica of {store} at {replica} has not caught up; try again soon")

    def caught_up(self) -> "Tenure":
        """Return what it is once the replica has everything, on either side."""
        return replace(self, synced=True)

    def diverged(self) -> "Tenure":
        """Return what it is once the replica has discarded what it had, on either side."""
        return replace(self, synced=False, waits=self.role is Role.PRIMARY)

    def deposed(self, term: int) -> "Tenure":
        """Return what a primary is that has heard of a greater term: it waits, and what it has may be less than the new primary's."""
        return Tenure(max(term, self.term), Role.STANDBY)

    def restarted(self) -> "Tenure":
        """Return what a process is that has recovered the store: nobody's primary or replica until it is told.

        A primary has all that it acknowledged; but a replica may have been promoted meanwhile, so that it must ask.
        """
        synced = self.synced or self.role is Role.PRIMARY
        return Tenure(self.term, Role.STANDBY, synced=synced, finished=self.finished)
