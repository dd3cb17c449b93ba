"""Whose state the members of a run go on with, after ranks were lost or have joined.

A collective that a rank was lost in has ended on some of the others, perhaps, and not on all: those have done the step, or taken the mean, and
the others have not. Nothing has to be undone: what has ended has all contributions in it, so that the others take the state of the
furthest one, and none of what was in it is computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import Unavailable

NOTHING = 0  # the standing of a rank without a state: it has just joined


@dataclass(frozen=True)
class Member:
    """A rank of a run that goes on when others are lost.

    Args:
        number: Of the rank, which no other one gets in this attempt.
        founder: It begins with the run; whoever comes later has nothing before another one's state.
    """

    number: int
    founder: bool


@dataclass(frozen=True)
class Standing:
    """How far a rank is.

    Args:
        step: Steps done.
        complete: Also what ends them: under local SGD the mean.
        agreed: It has met the others before; else it has its own first values, or the checkpoint's.
    """

    step: int
    complete: bool
    agreed: bool

    @property
    def number(self) -> int:
        """As it travels: greater is further."""
        return 1 + 4 * self.step + 2 * self.complete + self.agreed

    @classmethod
    def of(cls, number: int) -> "Standing":
        """Read a `number`, which is not `NOTHING`."""
        rest = number - 1
        return cls(rest // 4, bool(rest & 2), bool(rest & 1))


@dataclass(frozen=True)
class Agreement:
    """What all members do alike, before they go on.

    Args:
        source: Place of the member whose state those take over that are not as far.
        standing: How far all are then.
        values: Whether values are sent at all.
        everything: Whether the optimizer's state is, too; the ranks of a new run have that alike.
    """

    source: int
    standing: Standing
    values: bool
    everything: bool

    def takes(self, place: int, number: int) -> bool:
        """Tell whether the member at a place, whose standing has this number, takes over the source's state."""
        return (
            self.values
            and place != self.source
            and not (self.standing.agreed and number == self.standing.number)
        )


def agree(numbers: Sequence[int]) -> Agreement:
    """Find what follows from how far all members are, by place.

    Raises:
        Unavailable: None of them has a state.
    """
    best = max(numbers)
    if best == NOTHING:
        raise Unavailable("the ranks that had the run's values are all gone; only a checkpoint has some")
    standing, alike = Standing.of(best), all(number == best for number in numbers)
    return Agreement(
        source=numbers.index(best),
        standing=standing,
        values=not (alike and standing.agreed),
        everything=not alike,
    )
