"""The requests of one model that wait, by level: who leads, who has waited too long, who is gone.

The first request (`core.fair_queue`) of the first level that has any leads; but of a level that `PATIENCE` batches in a
row went past, if there is one, of several the one most went past. So of n levels each is led by after PATIENCE + n
batches at most, and has at least one of so many batches, however much comes above it.
"""

import math
from typing import Generic

from headrace.errors import DeadlineExceeded, HeadraceError
from headrace_inference.core.batching import Batching, Dropped, OnTimeout, R
from headrace_inference.core.fair_queue import FairQueue
from headrace_inference.core.heap import RequestHeap

PATIENCE = 16  # batches


class Waiting(Generic[R]):
    """The queue without its workers."""

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self.levels: list[FairQueue[R]] = [FairQueue() for _ in range(batching.levels)]
        self.count = 0
        self._passed = [0] * batching.levels
        self._expiring: RequestHeap[R] = RequestHeap()
        self._arrivals: RequestHeap[R] = RequestHeap()
        self._numbers = 0
        self._dropped: list[Dropped[R]] = []

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return sum([level.rows for level in self.levels])

    @property
    def kinds(self) -> int:
        """Kinds of requests, those of two levels counted twice."""
        return sum([level.kinds for level in self.levels])

    @property
    def expires(self) -> float:
        """When the next request has waited too long; infinity if none ever will have."""
        first = self._expiring.first()
        return first[0] if first else math.inf

    @property
    def oldest(self) -> float:
        """When the request came that waits longest; only known where batches are delayed."""
        first = self._arrivals.first()
        return first[0] if first else math.inf

    def push(self, request: R, now: float) -> None:
        """Let a request wait that has its kind and its level."""
        request.number, request.waiting = self._next_number(), True
        policy = self._batching.policy_of(request.level)
        request.expires = min(request.deadline, now + policy.timeout(request.terms.timeout_s))
        self.levels[request.level - 1].push(request)
        self.count += 1
        self._note_times(request)

    def take(self, request: R) -> None:
        """Take a request out that runs."""
        self.levels[request.level - 1].take(request)
        self._forget(request)

    def remove(self, request: R) -> None:
        """Take a request out that does not run."""
        self.levels[request.level - 1].remove(request)
        self._forget(request)

    def drop(self, request: R, error: HeadraceError) -> None:
        """Take a request out whose caller gets an error."""
        self.remove(request)
        self._dropped.append(Dropped(request, error))

    def dropped(self) -> list[Dropped[R]]:
        """Return those that were dropped since the last time."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def expire(self, now: float) -> None:
        """Drop the requests that have waited too long, or put them behind all others, as their level's policy says."""
        while (first := self._expiring.first()) and first[0] <= now:
            request = first[1]
            if request.deadline <= now:
                self.drop(request, expired())
            elif self._batching.policy_of(request.level).on_timeout is OnTimeout.DELAY:
                self._delay(request)
            else:
                self.drop(request, _timed_out(now - request.arrived))

    def leader(self) -> R | None:
        """Return the request whose turn it is."""
        filled = [number for number, level in enumerate(self.levels) if level.count]
        if not filled:
            return None
        chosen = filled[0]
        for number in filled:
            if self._passed[number] > max(PATIENCE - 1, self._passed[chosen]):
                chosen = number
        return self.levels[chosen].lead()

    def note_cut(self, level: int) -> None:
        """Take note that a batch is led by a request of `level`, after its requests have been taken."""
        for number, queue in enumerate(self.levels):
            self._passed[number] = self._passed[number] + 1 if queue.count and number != level - 1 else 0

    def _delay(self, request: R) -> None:
        self._forget(request)
        self.levels[request.level - 1].delay(request, self._next_number())
        self.count += 1
        request.expires = request.deadline
        self._note_times(request)

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _note_times(self, request: R) -> None:
        if request.expires < math.inf:
            self._expiring.push(request.expires, request)
        if self._batching.max_delay_s:
            self._arrivals.push(request.arrived, request)

    def _forget(self, request: R) -> None:
        self.count -= 1
        if request.expires < math.inf:
            self._expiring.left()
        if self._batching.max_delay_s:
            self._arrivals.left()


def expired() -> DeadlineExceeded:
    """Return the error of a request whose deadline has passed before it ran."""
    return DeadlineExceeded(
        "the deadline passed before a worker was free; allow more time, or send fewer at a time"
    )


def _timed_out(waited_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request waited {waited_s:.3g} s, as long as its timeout in the queue allows; "
        "allow more time, or send fewer at a time"
    )
