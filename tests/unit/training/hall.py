"""Ranks in threads that meet in generations, each of which ends in a sum that some of them complete and others do not."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from headrace.errors import Cancelled, MembersChanged

WAIT_S = 30.0


class Killed(BaseException):
    """What a rank dies of: nothing that it could tell of, or handle."""


@dataclass(frozen=True)
class Generation:
    """Members by rank, ascending, and how their group ends.

    Args:
        ends_at: Which of its sums is the last; 0: it does not end.
        complete: Ranks on which that sum still comes out; on the others it does not.
        dead: Ranks that die in it.
    """

    members: tuple[int, ...]
    ends_at: int = 0
    complete: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()


class Hall:
    """Where the ranks of a run meet; once one of them has come to the end, nobody waits any more: the scheduler stops them."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.generations = generations
        self._changed = threading.Condition()
        self._given: dict[tuple[int, int], dict[int, torch.Tensor]] = {}
        self._over = False

    def leave(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def total(self, generation: int, number: int, rank: int, mine: torch.Tensor) -> torch.Tensor:
        """Return the sum of what all members give."""
        members = self.generations[generation].members
        with self._changed:
            given = self._given.setdefault((generation, number), {})
            given[rank] = mine.clone()
            self._changed.notify_all()
            came = self._changed.wait_for(lambda: self._over or len(given) == len(members), WAIT_S)
            assert came, f"of {members} only {sorted(given)} came to sum {number} of generation {generation}"
            if len(given) < len(members):
                raise Cancelled("the run is over")
            return torch.stack([given[member] for member in members]).sum(0)


@dataclass
class Visitor:
    """One rank's way through the generations."""

    hall: Hall
    number: int
    _last: int = field(default=-1)

    def join(self) -> "HallGroup":
        later = range(self._last + 1, len(self.hall.generations))
        self._last = next(at for at in later if self.number in self.hall.generations[at].members)
        return HallGroup(self.hall, self._last, self.number)


class HallGroup:
    """A `Group` of one generation."""

    def __init__(self, hall: Hall, generation: int, number: int) -> None:
        self._hall, self._generation, self._number = hall, generation, number
        self._ending = hall.generations[generation]
        self.rank, self.size = self._ending.members.index(number), len(self._ending.members)
        self._sums = 0

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        self._sums += 1
        ends_at = self._ending.ends_at
        if ends_at and self._sums > ends_at:
            raise MembersChanged("there is a newer generation")
        total = self._hall.total(self._generation, self._sums, self._number, vector)
        if self._sums == ends_at and self._number in self._ending.dead:
            raise Killed
        if self._sums == ends_at and self._number not in self._ending.complete:
            raise MembersChanged("a member is gone")
        vector.copy_(total)

    def tell(self, note: str) -> None:
        raise AssertionError(note)

    def note(self) -> str:
        raise AssertionError("nobody has told anything")
