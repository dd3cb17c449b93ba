"""Where gradients wait while the values of their shard move."""

import threading

from headrace.errors import Unavailable
from headrace_parameters.core.boundary import Boundary
from headrace_parameters.core.config import Consistency

# Longer than a resharding takes; whoever waits longer is told to come again, so that no thread is kept for good.
_LONGEST_WAIT_S = 60.0


class Turnstile:
    """Open: everybody passes. Closed: nobody does, or whoever brings what lies before a boundary."""

    def __init__(self, consistency: Consistency) -> None:
        self._consistency = consistency
        self._changed = threading.Condition()
        self._open = True
        self._boundary: Boundary | None = None

    def close(self, boundary: Boundary | None = None) -> None:
        """Let nobody pass, or only what lies before the boundary."""
        with self._changed:
            self._open, self._boundary = False, boundary
            self._changed.notify_all()

    def open(self) -> None:
        """Let everybody pass."""
        with self._changed:
            self._open, self._boundary = True, None
            self._changed.notify_all()

    def admits(self, worker: int, step: int) -> bool:
        """Tell whether this worker's gradient, or the end of its step, may pass."""
        boundary = self._boundary
        return self._open or (boundary is not None and boundary.admits(self._consistency, worker, step))

    def wait(self, worker: int, step: int) -> None:
        """Return when it may pass, as things look.

        Raises:
            Unavailable: It still may not after a minute.
        """
        if self._open:
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self.admits(worker, step), _LONGEST_WAIT_S):
                raise Unavailable("values move between the store's shards; the same call may work soon")
