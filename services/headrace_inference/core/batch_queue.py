"""Dynamic batching without windows: what waits while a worker is busy becomes its next batch.

Nobody waits beside an idle worker (unless the model is told to: `Batching.max_delay_s`), so a lone caller pays nothing;
under load the batches grow by themselves, because more arrives while one of them runs. The queue tells no time, starts no
thread and locks nothing: its caller does.

`core.admission` says who is let in, `core.waiting` who leads the next batch; the batch is filled up with requests of the
leader's kind, of his level and then of the others. Here: how large it is.
"""

import math
from typing import Generic

from headrace_inference.core.admission import Admission
from headrace_inference.core.batching import Batching, Cut, R, Turn
from headrace_inference.core.joining import kind_of
from headrace_inference.core.run_times import RunTimes
from headrace_inference.core.waiting import Waiting


class BatchQueue(Generic[R]):
    """The requests of one model: which run, which wait, which wait no longer.

    Args:
        joins: Whether requests of this model may be joined at all.
    """

    def __init__(self, batching: Batching, *, joins: bool) -> None:
        self._batching = batching
        self._joins = joins and batching.max_size > 1
        self._delays = bool(batching.max_delay_s) and self._joins
        self._running: dict[Turn[R], None] = {}
        self._waiting: Waiting[R] = Waiting(batching)
        self._times = RunTimes()
        self._admission = Admission(batching, self._waiting, self._times, joins=self._joins)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._running and not self._waiting.count

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting.count

    def offer(self, request: R, now: float) -> Turn[R]:
        """Take in a request; what the turn says is to be run now, by a worker that is free.

        Raises:
            DeadlineExceeded: The deadline has passed, or it will have before any run could end.
            ResourceExhausted: Too many wait already, or it would wait too long.
            InvalidArgument: Its inputs cannot be padded together.
        """
        request.arrived = now
        if request.deadline < math.inf:
            self._admission.refuse_late(request, now)
        if not self._delays and not self._waiting.count and len(self._running) < self._batching.workers:
            cut = Cut.IDLE if self._joins else Cut.UNBATCHED
            return self._begin(Turn((request,), request.rows, (), cut, now))
        request.kind = kind_of(request.inputs, self._batching.padding)
        request.level = self._batching.level(request.terms.priority)
        self._admission.admit(request, now, self._running)
        self._waiting.push(request, now)
        if len(self._running) < self._batching.workers:
            return self.next_turn(now)
        return Turn(dropped=self._waiting.dropped())

    def withdraw(self, request: R) -> bool:
        """Take a waiting request out; return False if it does not wait: it runs, or has run."""
        if not request.waiting:
            return False
        self._waiting.remove(request)
        return True

    def finish(self, turn: Turn[R], now: float, infer_s: float | None = None) -> Turn[R]:
        """Take note that a batch has run, in `infer_s` if all went well, and return what its worker does next."""
        del self._running[turn]
        if infer_s is not None:
            self._times.learn(turn.rows, infer_s, now)
        return self.next_turn(now)

    def next_turn(self, now: float) -> Turn[R]:
        """Return a batch if a worker is free and a batch is due; and those that have waited too long, in any case."""
        self._waiting.expire(now)
        while len(self._running) < self._batching.workers:
            leader = self._waiting.leader()
            if leader is None or (self._delays and self._delay_ends() > now):
                break
            batch, rows, cut = self._cut(leader, now)
            if batch:
                self._waiting.note_cut(leader.level)
                return self._begin(Turn(batch, rows, self._waiting.dropped(), cut, now))
        return Turn(dropped=self._waiting.dropped())

    def expected_s(self, turn: Turn[R]) -> float:
        """Return how long a batch will run, in seconds; infinity as long as none has."""
        return self._times.expected(turn.rows) if self._times.known else math.inf

    def due(self) -> float:
        """Return when `next_turn` will have something to do though nothing happens; infinity if never, -infinity: now."""
        expires = self._waiting.expires
        if not self._delays or len(self._running) >= self._batching.workers:
            return expires
        return min(expires, self._delay_ends())

    def due_with(self, request: R) -> float:
        """Return when `next_turn` has to be called since a request has come, at the latest, if it waits."""
        if not request.waiting:
            return math.inf
        return self.due() if self._delays else request.expires

    def _begin(self, turn: Turn[R]) -> Turn[R]:
        self._running[turn] = None
        return turn

    def _delay_ends(self) -> float:
        """Return when the next batch is cut at the latest: it is full, its delay is over, or a deadline is near."""
        rows = self._waiting.rows
        if rows >= min((*self._batching.preferred_sizes, self._batching.max_size)):
            return -math.inf
        run_s = self._times.expected(rows)
        return min(self._waiting.oldest + self._batching.max_delay_s, self._waiting.expires - run_s)

    def _cut(self, leader: R, now: float) -> tuple[list[R], int, Cut]:
        """Take a batch out of the queue, with its rows; it is empty if none of the leader's kind and level can be answered in time."""
        if not self._joins:
            return *self._fill(leader, -1, now)[:2], Cut.UNBATCHED
        cap, why = self._cap(leader, now)
        batch, rows, next_too_large = self._fill(leader, cap, now)
        if rows > self._batching.max_size:
            why = Cut.TOO_LARGE
        elif next_too_large and rows < cap:
            why = Cut.NEXT_TOO_LARGE
        elif rows < cap and self._delays:
            why = Cut.DELAY_OVER
        elif rows < cap:
            why = Cut.OTHER_SHAPES if self._waiting.count else Cut.DRAINED
        return batch, rows, why

    def _cap(self, leader: R, now: float) -> tuple[int, Cut]:
        """Return how many rows the batch may have, and the reason if it gets as many."""
        here = sum([level.rows_of(leader.kind) for level in self._waiting.levels])
        most, preferred = self._batching.max_size, self._batching.preferred_sizes
        cap, why = most, Cut.FULL
        if self._batching.workers > 1 and (share := self._share(here, now)) < min(here, most):
            cap, why = share, Cut.SHARED
        fitting = [size for size in preferred if size <= min(here, cap)]
        return (max(fitting), Cut.PREFERRED) if fitting else (cap, why)

    def _share(self, here: int, now: float) -> int:
        """Return the part of the rows for one worker, when others are free, or will be before one part has run."""
        if self._waiting.kinds > 1:
            return here  # the others have something to do
        workers, times = self._batching.workers, self._times
        sharers = workers - len(self._running)
        if not times.known:
            return math.ceil(here / sharers)
        part_s = times.expected(here / workers)
        sharers += sum([turn.began + times.expected(turn.rows) - now <= part_s for turn in self._running])
        part = math.ceil(here / sharers)
        return part if part >= times.worth_sharing() else here

    def _fill(self, leader: R, cap: int, now: float) -> tuple[list[R], int, bool]:
        """Return a batch of the leader's kind, its rows, and whether one more request would have been too many."""
        batch: list[R] = []
        rows = 0
        own = self._waiting.levels[leader.level - 1]
        for level in (own, *[level for level in self._waiting.levels if level is not own]):
            while request := level.first_of(leader.kind):
                # Not the next smaller one, where it is too large: nobody is overtaken by his own kind.
                if batch and rows + request.rows > cap:
                    return batch, rows, True
                if request.deadline < math.inf and self._drop_if_hopeless(request, now):
                    continue
                self._waiting.take(request)
                batch.append(request)
                rows += request.rows
            if not batch:
                break  # nobody of the leader's level is left of his kind: another of that level may lead, before those of a lower one
        return batch, rows, False

    def _drop_if_hopeless(self, request: R, now: float) -> bool:
        error = self._admission.hopeless(request, now)
        if error is None:
            return False
        self._waiting.drop(request, error)
        return True
