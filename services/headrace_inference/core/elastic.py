"""How many threads a run gets, from what runs took: a request alone may have all of them, if that is faster now.

More threads shorten a run on an idle machine and lengthen it on a busy one, where threads that spin are the worst: which
is the case, nobody says. So a lone run is tried in every way there is, the fastest way is kept, and the others are tried
again from time to time, the more seldom the more often they lose.
"""

from dataclasses import dataclass, field

# Seconds: waking a thread takes tens of microseconds, so a shorter run gains nothing from a second one.
WORTH_S = 0.0003
FIRST_PAUSE, LONGEST_PAUSE = 16, 256  # runs between two tries of a way that lost
WEIGHT = 0.25  # of the newest run in the moving average


@dataclass
class _Size:
    """What is known of runs of about one size: seconds by way, and when another way is tried next."""

    seconds: dict[int, float] = field(default_factory=dict)
    pause: int = FIRST_PAUSE
    until_try: int = FIRST_PAUSE
    turn: int = 0


class Elastic:
    """Chooses among ways to run; way 0 is a single thread. Its caller locks.

    Args:
        ways: How many there are, >= 1.
    """

    def __init__(self, ways: int) -> None:
        self._ways = ways
        self._sizes: dict[int, _Size] = {}

    def choose(self, elements: int) -> int:
        """Return the way for a run alone.

        Args:
            elements: Of its inputs; runs within a factor of two share what they know.
        """
        size = self._size(elements)
        if self._ways == 1 or size.seconds.get(0, 0.0) < WORTH_S:
            return 0
        untried = [way for way in range(self._ways) if way not in size.seconds]
        if untried:
            return untried[0]
        fastest = _fastest(size)
        size.until_try -= 1
        if size.until_try > 0:
            return fastest
        others = [way for way in range(self._ways) if way != fastest]
        size.turn += 1
        return others[size.turn % len(others)]

    def took(self, elements: int, way: int, seconds: float) -> None:
        """Note how long a run alone took."""
        size = self._size(elements)
        known = size.seconds.get(way)
        if known is None:
            size.seconds[way] = seconds
            return
        if len(size.seconds) == 1 or way == _fastest(size):
            size.seconds[way] = known + WEIGHT * (seconds - known)
            return
        size.seconds[way] = seconds  # what it took long ago says nothing
        size.pause = FIRST_PAUSE if _fastest(size) == way else min(2 * size.pause, LONGEST_PAUSE)
        size.until_try = size.pause

    def _size(self, elements: int) -> _Size:
        bits = elements.bit_length()
        size = self._sizes.get(bits)
        if size is None:
            size = self._sizes[bits] = _Size()
        return size


def _fastest(size: _Size) -> int:
    return min(size.seconds, key=size.seconds.__getitem__)
