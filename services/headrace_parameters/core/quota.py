"""What a project may have and do in one process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProjectQuota:
    """Bounds of one project; 0: none.

    Args:
        max_bytes: Memory of values, rows and optimizer state.
        calls_per_s: Pushes, pulls, and calls that do both.
        bytes_per_s: Of gradients and values, both ways, as they travel.
    """

    max_bytes: int = 0
    calls_per_s: float = 0.0
    bytes_per_s: float = 0.0


class TokenBucket:
    """Lets `rate` tokens pass per second, and a burst of as many as one second brings, but at least one.

    What something costs may be known only when it is done: it is let in while any token is left, and what it took is paid back before
    the next is let in. In the long run no more pass than the rate.
    """

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._burst = max(rate, 1.0)
        self._level = self._burst
        self._filled_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return in how many seconds something is let in: 0 at once."""
        self._level = min(self._burst, self._level + self._rate * max(0.0, now_s - self._filled_s))
        self._filled_s = now_s
        # Whole tokens: a call that finds a thousandth of one left would make the next wait for all the rest.
        missing = min(1.0, self._burst) - self._level
        return max(0.0, missing / self._rate)

    def spend(self, tokens: float) -> None:
        """Take tokens, more than there are if need be."""
        self._level -= tokens

    @property
    def is_full(self) -> bool:
        """Whether nothing has been taken, as of the last `wait_s`."""
        return self._level >= self._burst
