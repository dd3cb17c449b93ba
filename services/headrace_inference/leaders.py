"""Threads that lead batches for callers who wait in none."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Work = TypeVar("Work")


class Leaders(Generic[Work]):
    """Threads that do what they are given; each is started when there is work that no idle one can take.

    The engine gives them no more work at a time than it has workers, so there are no more threads than that.
    """

    def __init__(self, name: str, do: Callable[[Work], None]) -> None:
        self._name = name
        self._do = do
        self._given: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._dismissed = False

    def give(self, work: Work) -> None:
        """Have it done; returns at once."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                self._threads += 1
                # A daemon: an engine that nobody drained must not keep its process alive.
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._given.put(work)

    def dismiss(self) -> None:
        """Let the threads end: those that have nothing to do at once, the others when they are done."""
        with self._lock:
            self._dismissed = True
            idle, self._idle = self._idle, 0
            self._threads -= idle
        for _ in range(idle):
            self._given.put(None)

    def _run(self) -> None:
        while (work := self._given.get()) is not None:
            self._do(work)
            with self._lock:
                if self._dismissed:
                    self._threads -= 1
                    return
                self._idle += 1
