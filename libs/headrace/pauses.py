"""Pauses between tries: each twice as long as the one before, up to a longest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

_MOST_DOUBLINGS = 64  # above, a pause of a nanosecond would be centuries; 2 to the number of failures is no float at some time


@dataclass(frozen=True)
class Pauses:
    """How long to wait between tries, in seconds."""

    first_s: float
    longest_s: float

    def after(self, failures: int) -> float:
        """Return the pause after so many failures in a row, >= 1."""
        return float(min(self.first_s * 2 ** min(failures - 1, _MOST_DOUBLINGS), self.longest_s))

    def __iter__(self) -> Iterator[float]:
        """Yield the pauses after the first failure, the second, and so on, without end."""
        return map(self.after, count(1))
