"""A clock that stands still until a test moves it."""

import threading


class FakeClock:
    """Seconds since some beginning, moved by hand; a drop-in for `time.time` and `time.monotonic` by calling `now`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self._now = now
        self._moved = threading.Condition()

    @property
    def now(self) -> float:
        """What the clock shows, in seconds."""
        with self._moved:
            return self._now

    def __call__(self) -> float:
        """Return `now`: the clock itself passes where a function that tells the time is wanted."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wake those whose time has come."""
        assert seconds >= 0, "time does not run backwards"
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def wait(self, seconds: float) -> None:
        """Block until the clock has been moved forward by `seconds`: a drop-in for `time.sleep`."""
        with self._moved:
            end = self._now + seconds
            self._moved.wait_for(lambda: self._now >= end)
