"""How long to wait for a service that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.errors import DeadlineExceeded, HeadraceError
from headrace.pauses import Pauses

PAUSES = Pauses(first_s=0.1, longest_s=2.0)


class Retries:
    """The tries of one piece of work; `pause_after` decides whether there is another.

    Args:
        patience_s: Time from the start, or from the last success, until a failure is final.
        clock: Monotonic seconds.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self.succeeded()

    def succeeded(self) -> None:
        """Begin anew: the service answered."""
        self._end = self._clock() + self._patience_s
        self._pauses = iter(PAUSES)
        self._last: HeadraceError | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, as the deadline of the next try: always more than 0."""
        return max(self._end - self._clock(), 0.001)

    def pause_after(self, error: HeadraceError) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            HeadraceError: `error`, when there is no time for another.
        """
        self._last = error
        pause_s = next(self._pauses)
        if self._clock() + pause_s >= self._end:
            raise error
        return pause_s

    def cause(self, error: DeadlineExceeded) -> HeadraceError:
        """Return what kept the work from being done in time: the failure before, when the last try had only the rest of the time."""
        return self._last or error
