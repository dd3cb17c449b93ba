"""A thread that wakes up in time: for batches whose delay is over, and requests that have waited too long."""

import math
import threading
from collections.abc import Callable


class Alarm:
    """Calls `ring` at the times that were set; the thread starts with the first one. Thread-safe.

    Args:
        ring: Does what is due, and returns when it is to be called next; infinity: not before the alarm is set again.
        clock: Tells the time, in seconds.
    """

    def __init__(self, name: str, ring: Callable[[], float], clock: Callable[[], float]) -> None:
        self._name = name
        self._ring = ring
        self._clock = clock
        self._at = math.inf
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def set(self, at: float) -> None:
        """Ring at `at`, or earlier if that is set already."""
        if at >= self._at:  # without the lock: who rings earlier asks again when to ring
            return
        with self._changed:
            if self._stopped or at >= self._at:
                return
            self._at = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while self._wait():
            at = self._ring()
            with self._changed:
                self._at = min(self._at, at)

    def _wait(self) -> bool:
        """Return True when it is time to ring, False when it is time to end."""
        with self._changed:
            while not self._stopped:
                left_s = self._at - self._clock()
                if left_s <= 0:
                    self._at = math.inf
                    return True
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            return False
