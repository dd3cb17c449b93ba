"""Runs the requests of one model in the threads of their own calls, batched as `core.batching` says.

There are no worker threads. A call that finds a worker's place free takes it and runs its own request at once, without a
switch of threads. When its batch is done it hands the place to the call that waits longest, which leads the next batch;
the others of that batch only wait for their rows.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from headrace.errors import Cancelled, DeadlineExceeded, HeadraceError
from headrace_inference.core.batching import (
    Arrays,
    Batching,
    BatchQueue,
    Cut,
    Request,
    Runner,
    Turn,
    join,
    split,
)
from headrace_inference.statistics import BatchStatistics, Run

Clock = Callable[[], float]
Watch = Callable[[Callable[[], None]], object]


class EngineClosed(Exception):
    """The engine takes no more requests: another one answers for the model, or none."""


class Place:
    """One call's place in the engine: it waits to be settled, or to be given a batch to lead.

    `taken` becomes true when its request leaves the queue to be run; from then on nobody withdraws it.
    """

    def __init__(self, request: Request, timeout_s: float | None) -> None:
        self.request = request
        self.timeout_s = timeout_s
        self.batch: Sequence[Place] = ()
        self.cut = Cut.IDLE
        self.taken = False
        self.woken = threading.Event()
        self.outputs: Arrays | None = None
        self.error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self.outputs is not None or self.error is not None


class Engine:
    """One loaded model with its queue; thread-safe.

    Args:
        joins: Whether its requests may be joined into batches.
        statistics: Counts what it does.
        clock: Tells the time, in seconds, that deadlines of requests are on.
    """

    def __init__(
        self,
        runner: Runner,
        batching: Batching,
        *,
        joins: bool,
        statistics: BatchStatistics,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._queue = BatchQueue(batching, joins=joins)
        self.statistics = statistics
        self._clock = clock
        self._places: dict[Request, Place] = {}
        self._changed = threading.Condition()
        self._closed = False

    def run(self, inputs: Arrays, outputs: tuple[str, ...], timeout_s: float | None, watch: Watch) -> Arrays:
        """Run one checked request and return the wished outputs.

        Args:
            timeout_s: When the caller stops waiting; None: never.
            watch: Is given a function to call when the caller is gone.
        Raises:
            ResourceExhausted: The queue is full.
            DeadlineExceeded: The time was over before a worker was free; nothing ran.
            Cancelled: The caller went away before a worker was free; nothing ran.
            InvalidArgument: The model cannot run these inputs.
            EngineClosed: It is closed; nothing ran.
        """
        return self.finish(self.enter(inputs, outputs, timeout_s, watch))

    def enter(self, inputs: Arrays, outputs: tuple[str, ...], timeout_s: float | None, watch: Watch) -> Place:
        """Do the first half of `run`: let the request in. Whoever enters must `finish`, for he may hold a worker's place."""
        deadline = float("inf") if timeout_s is None else self._clock() + timeout_s
        place = Place(Request(inputs, outputs, deadline), timeout_s)
        watch(partial(self._withdraw, place, Cancelled("the caller went away before a worker was free")))
        self._take(place)
        return place

    def finish(self, place: Place) -> Arrays:
        """Do the second half of `run`: lead a batch or wait for one, and return the wished outputs."""
        if not place.batch:
            self._wait(place)
        if place.batch:
            self._lead(place.batch, place.cut)
        if place.error is not None:
            raise place.error
        assert place.outputs is not None, "a place that has been left is settled"
        return place.outputs

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return len(self._places)

    def close(self) -> None:
        """Take no more requests; those inside are answered."""
        with self._changed:
            self._closed = True

    def drain(self, bound_s: float) -> bool:
        """Wait until nothing is inside; return False if that took longer than `bound_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._queue.idle, bound_s)

    def _take(self, place: Place) -> None:
        """Let a request in: its place gets a batch to lead, or it is in the queue, or settled already."""
        with self._changed:
            if self._closed:
                raise EngineClosed
            now = self._clock()
            if place.request.deadline <= now:
                place.error = _expired()
            if place.settled:
                return
            if self._queue.offer(place.request, now):
                place.taken, place.batch = True, (place,)
            else:
                self._places[place.request] = place

    def _wait(self, place: Place) -> None:
        bound_s = None if place.timeout_s is None else min(place.timeout_s, threading.TIMEOUT_MAX)
        if not place.settled and not place.woken.wait(bound_s):
            self._withdraw(place, _expired())
            place.woken.wait()  # for a request that was taken meanwhile, until its batch has run

    def _withdraw(self, place: Place, error: HeadraceError) -> None:
        """Settle a request that is not taken yet."""
        with self._changed:
            if place.taken or place.settled:
                return
            if self._places.pop(place.request, None) is not None:
                self._queue.withdraw(place.request)
            _settle(place, None, error)

    def _lead(self, batch: Sequence[Place], cut: Cut) -> None:
        """Run a batch, then hand the worker's place on."""
        try:
            self._run_batch(batch, cut)
        finally:
            with self._changed:
                self._hand_on(self._queue.next_turn(self._clock()))
                self._changed.notify_all()

    def _hand_on(self, turn: Turn) -> None:
        for request in turn.expired:
            _settle(self._places.pop(request), None, _expired())
        batch = [self._places.pop(request) for request in turn.batch]
        for place in batch:
            place.taken = True
        if batch:
            batch[0].batch, batch[0].cut = batch, turn.cut
            batch[0].woken.set()

    def _run_batch(self, batch: Sequence[Place], cut: Cut) -> None:
        """Settle every place of a batch; if the batch fails as a whole, each runs alone, so that one cannot spoil it."""
        try:
            results = self._run_joined([place.request for place in batch], cut)
        except Exception as error:  # noqa: BLE001 - the top of a run: its callers get it, each in his own thread
            if len(batch) == 1:
                _settle(batch[0], None, error)
                return
            for place in batch:
                self._run_batch([place], Cut.NEIGHBOUR_FAILED)
            return
        for place, outputs in zip(batch, results, strict=True):
            _settle(place, outputs, None)

    def _run_joined(self, requests: Sequence[Request], cut: Cut) -> Sequence[Arrays]:
        began = self._clock()
        inputs, outputs = join(requests)
        joined = self._clock()
        found = self._runner.run(inputs, outputs)
        ran = self._clock()
        results = split(found, requests)
        self.statistics.ran(
            Run(
                rows=sum(request.rows for request in requests),
                queued_s=[began - request.arrived for request in requests],
                input_s=joined - began,
                infer_s=ran - joined,
                output_s=self._clock() - ran,
                cut=cut,
            )
        )
        return results


def _settle(place: Place, outputs: Arrays | None, error: Exception | None) -> None:
    place.outputs, place.error = outputs, error
    place.woken.set()


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline passed before a worker was free; allow more time, or send fewer at a time"
    )
