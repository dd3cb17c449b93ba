"""Who is let into the queue: nobody who would only wait to be told that it was too late.

Three bounds. Places: `max_waiting` in the model's queue, and what the policy of a level says. Time: a request is refused
if it is expected to wait longer than its deadline, its timeout or `max_wait_s` allows; so under overload the queue is as
long as what is in it can be answered in time, and the rest learns at once to go elsewhere. Fairness: a full queue takes a
request in for another one, of a lower level or of the caller who has most.

Expected is what `RunTimes` says of the work before it. Nobody is refused for an expectation while nobody waits, so a wrong
one never leaves a worker idle, and every run corrects it.
"""

from collections.abc import Iterable
from typing import Generic

from headrace.errors import DeadlineExceeded, ResourceExhausted
from headrace_inference.core.batching import RETRY_AFTER_S, Batching, OnTimeout, R, Turn
from headrace_inference.core.run_times import RunTimes
from headrace_inference.core.waiting import Waiting, expired

MOST_RETRY_AFTER_S = 5.0
MARGIN = 1.2  # waits are taken to be longer by a fifth: who is let in shall rather be answered than dropped


class Admission(Generic[R]):
    """Lets requests into `waiting`, or not."""

    def __init__(self, batching: Batching, waiting: Waiting[R], times: RunTimes, *, joins: bool) -> None:
        self._batching = batching
        self._waiting = waiting
        self._times = times
        self._joins = joins

    def refuse_late(self, request: R, now: float) -> None:
        """Refuse a request that no run could answer in time.

        Raises:
            DeadlineExceeded: The deadline has passed, or the shortest run that is likely is longer than what is left.
        """
        if request.deadline <= now:
            raise expired()
        error = self.hopeless(request, now)
        if error is not None:
            raise error

    def hopeless(self, request: R, now: float) -> DeadlineExceeded | None:
        """Return the error of a request whose deadline will have passed before a run could end; None while there is hope."""
        left_s = request.deadline - now
        if left_s >= self._times.expected(request.rows):  # and `least` is less than that
            return None
        least_s = self._times.least(request.rows, now)
        if left_s >= least_s:
            return None
        return DeadlineExceeded(
            f"the deadline is in {left_s:.2g} s, and the model needs {least_s:.2g} s; allow more time, or send fewer rows"
        )

    def admit(self, request: R, now: float, running: Iterable[Turn[R]]) -> None:
        """Make sure that there is room for a request; another one may be dropped for it.

        Raises:
            ResourceExhausted: There is none, or it would wait too long.
        """
        waiting = self._waiting
        wait_s = self._refuse_long_wait(request, now, running)
        level = waiting.levels[request.level - 1]
        policy = self._batching.policy_of(request.level)
        if policy.max_waiting and level.count >= policy.max_waiting:
            victim = level.place_for(request)
            if victim is None:
                raise _full(level.count, f"on priority level {request.level} ", wait_s)
            waiting.drop(victim, _displaced())
        elif waiting.count >= self._batching.max_waiting:
            victim = self._place_below(request) or level.place_for(request)
            if victim is None:
                raise _full(waiting.count, "", wait_s)
            waiting.drop(victim, _displaced())

    def _place_below(self, request: R) -> R | None:
        lower = [level for level in self._waiting.levels[request.level :] if level.count]
        return lower[-1].last() if lower else None

    def _refuse_long_wait(self, request: R, now: float, running: Iterable[Turn[R]]) -> float:
        if not self._times.known or not self._waiting.count:
            return 0.0
        wait_s = MARGIN * self._expected_wait(request, now, running)
        own_s = self._times.most(self._batch_rows(request))
        allowed_s = min(self._batching.max_wait_s, request.deadline - now - own_s)
        policy = self._batching.policy_of(request.level)
        if policy.on_timeout is OnTimeout.REJECT:
            allowed_s = min(allowed_s, policy.timeout(request.terms.timeout_s))
        if wait_s > allowed_s:
            raise ResourceExhausted(
                f"a request that comes now waits about {wait_s:.2g} s, and this one has {max(0.0, allowed_s):.2g} s; "
                "send again later, or elsewhere",
                metadata={"waiting": self._waiting.count, "expected_wait_s": round(wait_s, 3)},
                retry_after_s=_retry_after(wait_s - allowed_s),
            )
        return wait_s

    def _batch_rows(self, request: R) -> int:
        most = self._batching.max_size if self._joins else 1
        return max(request.rows, min(most, request.rows + self._waiting.rows))

    def _expected_wait(self, request: R, now: float, running: Iterable[Turn[R]]) -> float:
        """Return how long the workers need for what they run and for what goes before a request, in seconds."""
        own = self._waiting.levels[request.level - 1]
        rows = own.rows_before(request)
        for level in self._waiting.levels[: request.level - 1]:
            rows += level.rows
        if self._joins:
            batches = max(rows / self._batching.max_size, own.kinds - 1)
        else:
            batches = rows * self._waiting.count / max(1, self._waiting.rows)
        times = self._times
        left_s = sum([max(0.0, turn.began + times.expected(turn.rows) - now) for turn in running])
        return (left_s + times.fixed_s * batches + times.each_s * rows) / self._batching.workers


def _full(count: int, where: str, wait_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"{count} requests wait {where}for the model already; send again later",
        metadata={"waiting": count},
        retry_after_s=_retry_after(wait_s / 2),
    )


def _displaced() -> ResourceExhausted:
    return ResourceExhausted(
        "the queue is full, and a request of a caller with fewer in it, or of higher priority, took the place; send again later",
        retry_after_s=RETRY_AFTER_S,
    )


def _retry_after(seconds: float) -> float:
    return min(max(seconds, RETRY_AFTER_S), MOST_RETRY_AFTER_S)
