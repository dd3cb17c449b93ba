"""For how long a replica has not done its part."""

from collections.abc import Callable


class Silence:
    """Since when nothing has moved, while something waits. Not thread-safe: its owner lets one call in at a time.

    Args:
        now: The time, in seconds; it never goes back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: float | None = None

    def waits(self) -> None:
        """Take note that something waits, maybe for long."""
        if self._since is None:
            self._since = self._now()

    def moved(self, *, waits: bool) -> None:
        """Take note that something has moved, and whether more waits."""
        self._since = self._now() if waits else None

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0: nothing waits."""
        return 0.0 if self._since is None else self._now() - self._since
