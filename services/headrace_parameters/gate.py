"""Keeps pushes out of a shard while all shards of a store come to one moment, so that a snapshot of them is consistent."""

import threading
import time
from collections.abc import Callable, Mapping

from headrace.errors import Aborted, FailedPrecondition
from headrace_parameters.core.shard import Shard

HOLD_S = 2.0  # who began a snapshot and is gone keeps the run waiting no longer

# A moment that all shards can stop at: the step that each worker pushes next; under BSP the version, for all workers alike.
Cut = Mapping[int, int]


def where(shard: Shard) -> Cut:
    """Say where a shard is; FailedPrecondition if it has no values yet."""
    published = shard.published
    if published is None:
        raise FailedPrecondition(f"{shard.config.name} has no values to save yet; call Initialize first")
    return {worker: shard.next_step(worker, published) for worker in shard.members.workers}


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

    def hold(self, cut: Cut) -> Cut:
        """Let nothing behind `cut` in until `open`, or for `HOLD_S`; return it."""
        self._cut, self._until = cut, self._now() + HOLD_S
        self._moved.notify_all()
        return cut

    def open(self) -> None:
        """Let everything in."""
        self._cut = None
        self._moved.notify_all()

    def enter(self, step: int, worker: int | None = None) -> None:
        """Wait until a push may be taken, or all workers' step be completed."""
        while self._cut is not None and self._now() < self._until:
            last = max(self._cut.values()) if worker is None else self._cut.get(worker, 0)
            if step < last:
                return
            self._moved.wait(self._until - self._now())

    def moved(self) -> None:
        """Tell that something was taken."""
        if self._cut is not None:
            self._moved.notify_all()

    def reach(self, cut: Cut, progress: Callable[[], Cut]) -> None:
        """Wait until the shard is at `cut`; when the caller lets go of the lock, everything is let in again.

        Args:
            progress: Where the shard is.
        Raises:
            Aborted: It is beyond, because it was held for too long; or it did not come so far, because a worker is gone.
        """
        self.hold(cut)

        def behind() -> dict[int, int]:
            return {worker: step for worker, step in progress().items() if step < cut.get(worker, 0)}

        self._moved.wait_for(lambda: self._cut is not cut or not behind(), HOLD_S)
        self.open()
        if missing := behind():
            raise Aborted(
                f"the shards are not at one moment: pushes of workers {sorted(missing)} are on some of them alone; repeat the snapshot"
            )
        if dict(progress()) != dict(cut):
            raise Aborted("the shards are not at one moment: this one has gone on; repeat the snapshot")
