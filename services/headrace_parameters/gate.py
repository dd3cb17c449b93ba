"""Keeps pushes out of a shard while all shards of a store come to one cut: to be saved there, or for values to move."""

import math
import threading
import time
from collections.abc import Callable

from headrace.errors import Aborted, Unavailable
from headrace.parameters.cut import Cut, behind

HOLD_S = 2.0  # of a snapshot: who began it and is gone keeps the run waiting no longer
# Longer than a resharding takes; whoever waits longer is told to come again, so that no thread is kept for good.
LONGEST_WAIT_S = 60.0

NOTHING: Cut = {}  # a cut that no push comes before


class Gate:
    """Lets only those pushes in that come before a cut. Every method is to be called under the lock that it is made of.

    Args:
        lock: Held by whoever changes the shard; whoever waits here lets go of it.
        now: The time in seconds.
    """

    def __init__(self, lock: threading.Lock, now: Callable[[], float] = time.monotonic) -> None:
        self._moved = threading.Condition(lock)
        self._now = now
        self._cut: Cut | None = None
        self._until = 0.0

    def hold(self, cut: Cut, for_s: float = math.inf) -> Cut:
        """Let nothing behind `cut` in until `open`, or for so long; return it."""
        self._cut, self._until = cut, self._now() + for_s
        self._moved.notify_all()
        return cut

    def open(self) -> None:
        """Let everything in."""
        self._cut = None
        self._moved.notify_all()

    def enter(self, step: int, worker: int | None = None) -> None:
        """Wait until a push may be taken, or all workers' step be completed.

        Raises:
            Unavailable: It still may not after a minute.
        """
        deadline = self._now() + LONGEST_WAIT_S
        while self._keeps_out(step, worker):
            now = self._now()
            if now >= deadline:
                raise Unavailable("the store's shards are held for long; the same call may work soon")
            self._moved.wait(min(self._until, deadline) - now)

    def _keeps_out(self, step: int, worker: int | None) -> bool:
        if self._cut is None or self._now() >= self._until:
            return False
        first = max(self._cut.values(), default=0) if worker is None else self._cut.get(worker, 0)
        return step >= first

    def moved(self) -> None:
        """Tell that something was taken, or that whoever waits shall look again."""
        if self._cut is not None:
            self._moved.notify_all()

    def reach(
        self,
        cut: Cut,
        position: Callable[[], Cut],
        timeout_s: float,
        over: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Hold the shard at `cut`, for good, and return once it is there, or will not be; return whether it is.

        Args:
            position: Where the shard is.
            over: Whether nobody wants it any more; asked again whenever something has moved.
        """
        self.hold(cut)
        self._moved.wait_for(lambda: self._cut is not cut or over() or not behind(position(), cut), timeout_s)
        return not behind(position(), cut)

    def meet(self, cut: Cut, position: Callable[[], Cut]) -> None:
        """Wait until the shard is at `cut`; when the caller lets go of the lock, everything is let in again.

        Raises:
            Aborted: It is beyond, because it was held for too long; or it did not come so far, because a worker is gone.
        """
        self.reach(cut, position, HOLD_S)
        if self._cut is cut:  # else somebody else holds the shard by now
            self.open()
        if missing := behind(position(), cut):
            raise Aborted(
                f"the shards are not at one moment: pushes of workers {missing} are on some of them alone; repeat the snapshot"
            )
        if dict(position()) != dict(cut):
            raise Aborted("the shards are not at one moment: this one has gone on; repeat the snapshot")
