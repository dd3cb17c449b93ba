"""Runs the requests of one model, batched as `core.batch_queue` says.

A caller with a thread of his own needs no other: his call that finds a worker free runs its own request at once, without
a switch of threads. When its batch is done it hands the worker's place to a call of the next batch, which leads that one;
the others of the batch only wait for their rows. For callers who are called back (`Place.then`), threads of the engine
lead, and go on as long as there are batches. Both kinds of callers share one queue, and batches.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from headrace.errors import HeadraceError, Internal
from headrace.rpc.deferred import loop_here
from headrace_inference.alarm import Alarm
from headrace_inference.core.batch_queue import BatchQueue
from headrace_inference.core.batching import NO_TERMS, Arrays, Batching, Cut, Dropped, Runner, Terms, Turn
from headrace_inference.core.joining import join, split
from headrace_inference.leaders import Leaders
from headrace_inference.place import Place, deadline_in
from headrace_inference.statistics import BatchStatistics, Run

QUICK_S = 0.0003  # a batch that runs no longer costs an event loop less than two switches of threads
GROWTH = 2  # a batch this many times as large as one that was quick is not long either

Clock = Callable[[], float]
Watch = Callable[[Callable[[], None]], object]


class EngineClosed(Exception):
    """The engine takes no more requests: another one answers for the model, or none."""


class Engine:
    """One loaded model with its queue; thread-safe.

    Args:
        joins: Whether its requests may be joined into batches.
        waits: Whether a run may wait, for other models or for anything else: then it never runs in an event loop, whose
            thread may be what it waits for.
        statistics: Counts what it does.
        clock: Tells the time, in seconds, that deadlines of requests are on.
    """

    def __init__(
        self,
        runner: Runner,
        batching: Batching,
        *,
        joins: bool,
        waits: bool = False,
        statistics: BatchStatistics,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._waits = waits
        self._quick_elements = 0.0  # of the largest batch that was quick
        self._padding = batching.padding
        self._queue: BatchQueue[Place] = BatchQueue(batching, joins=joins)
        self.statistics = statistics
        self._clock = clock
        self._leaders: Leaders[Turn[Place]] = Leaders("batch-leader", self._lead_on)
        self._alarm = Alarm("batch-alarm", self.ring, clock)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._closed = False
        self._draining = False  # it matters when it is idle

    def enter(
        self,
        inputs: Arrays,
        outputs: tuple[str, ...],
        timeout_s: float | None,
        watch: Watch,
        terms: Terms = NO_TERMS,
    ) -> Place:
        """Let a request in, without waiting for its answer; whoever enters must call `wait` or `then` of the place.

        Args:
            timeout_s: When the caller stops waiting; None: never.
            watch: Is given a function to call when the caller is gone.
        Returns:
            A place whose error, if it gets one, is one of
                ResourceExhausted: Its place in a full queue went to another request.
                DeadlineExceeded: The time was over before a worker was free; nothing ran.
                Cancelled: The caller went away before a worker was free; nothing ran.
                InvalidArgument: The model cannot run these inputs.
        Raises:
            ResourceExhausted: The queue is full, or it would wait too long.
            DeadlineExceeded: The time is over, or will be before any run could end.
            InvalidArgument: Its inputs cannot be padded together.
            EngineClosed: It is closed; nothing ran.
        """
        now = self._clock()
        place = Place(self, inputs, outputs, deadline_in(timeout_s, now), terms)
        watch(place.cancel)
        try:
            with self._lock:
                if self._closed:
                    raise EngineClosed
                if place.gone:
                    return place
                place.entered = True
                turn = self._queue.offer(place, now)
                due = self._queue.due_with(place)
        except HeadraceError as error:
            self.statistics.failed(error.reason, 0.0)
            raise
        self._alarm.set(due)
        self._go_on(turn)
        return place

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return self._queue.waiting

    def close(self) -> None:
        """Take no more requests; those inside are answered, then the threads end."""
        with self._lock:
            self._closed = self._draining = True
            self._rest_if_done()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is inside."""
        with self._lock:
            return self._queue.idle

    def drain(self, bound_s: float) -> bool:
        """Wait until nothing is inside; return False if that took longer than `bound_s`."""
        with self._lock:
            self._draining = True
            drained = self._idle.wait_for(lambda: self._queue.idle, bound_s)
            self._rest_if_done()
        return drained

    def ring(self) -> float:
        """Do what is due by now; return when something is due next."""
        while True:
            with self._lock:
                turn = self._queue.next_turn(self._clock())
                due = self._queue.due()
            self._go_on(turn)
            if not turn.batch:
                return due

    def withdraw(self, place: Place, error: HeadraceError) -> None:
        """Settle a request that has not been taken to run."""
        with self._lock:
            if place.gone or (place.entered and not self._queue.withdraw(place)):
                return
            place.gone = True
            self._tell_if_idle()
        self._fail(place, error)

    def lead(self, turn: Turn[Place]) -> None:
        """Run a batch in this thread, and hand the worker's place on."""
        infer_s = None
        try:
            infer_s = self._run_batch(turn.batch, turn.cut)
        finally:
            self._go_on(self._finish(turn, infer_s))

    def lead_elsewhere(self, turn: Turn[Place]) -> None:
        """Run a batch in a thread of the engine; or, if that is quickly done, in the event loop of this thread, after all that it has just read."""
        loop = loop_here()
        if loop is not None and self._is_quick(turn):
            loop(partial(self.lead, turn))
        else:
            self._leaders.give(turn)

    def _is_quick(self, turn: Turn[Place]) -> bool:
        """Tell whether a batch will be done quickly: one that is much larger than any that was may well take long."""
        return (
            not self._waits
            and self._queue.expected_s(turn) < QUICK_S
            and self._elements(turn.batch) <= GROWTH * self._quick_elements
        )

    def _elements(self, batch: Sequence[Place]) -> float:
        """Return how many elements the inputs of a batch have together, padding included."""
        widest = 0.0
        for place in batch if self._padding else batch[:1]:
            widest = max(widest, sum([array.size for array in place.inputs.values()]) / max(1, place.rows))
        return widest * sum([place.rows for place in batch])

    def _lead_on(self, turn: Turn[Place]) -> None:
        """Run a batch in this thread, and all that come after it."""
        while turn.batch:
            try:
                infer_s = self._run_batch(turn.batch, turn.cut)
            except (
                BaseException
            ):  # of somebody who was called back: the worker's place must not be lost with this thread
                self._go_on(self._finish(turn, None))
                raise
            turn = self._finish(turn, infer_s)
            self._drop(turn.dropped)

    def _finish(self, turn: Turn[Place], infer_s: float | None) -> Turn[Place]:
        with self._lock:
            following = self._queue.finish(turn, self._clock(), infer_s)
            due = self._queue.due() if self._queue.waiting else math.inf
            self._tell_if_idle()
        self._alarm.set(due)
        return following

    def _tell_if_idle(self) -> None:
        if self._draining and self._queue.idle:
            self._idle.notify_all()
            self._rest_if_done()

    def _rest_if_done(self) -> None:
        """Let the threads end when no request is inside and none will come: they would keep the model in memory."""
        if self._closed and self._queue.idle:
            self._alarm.stop()
            self._leaders.dismiss()

    def _go_on(self, turn: Turn[Place]) -> None:
        """Settle who was dropped, and find who leads the batch."""
        self._drop(turn.dropped)
        if not turn.batch:
            return
        for place in turn.batch:
            if place.give(turn):
                return
        self.lead_elsewhere(turn)

    def _drop(self, dropped: Sequence[Dropped[Place]]) -> None:
        for one in dropped:
            self._fail(one.request, one.error)

    def _fail(self, place: Place, error: Exception) -> None:
        reason = error.reason if isinstance(error, HeadraceError) else Internal.reason
        self.statistics.failed(reason, self._clock() - place.arrived if place.entered else 0.0)
        place.fail(error)

    def _run_batch(self, batch: Sequence[Place], cut: Cut) -> float | None:
        """Settle every place of a batch; return how long it ran, in seconds.

        A batch that fails as a whole (then this returns None) is run again in halves, and these in halves, until each bad
        request has failed alone: none can spoil another's answer.
        """
        try:
            answers, run = self._run_joined(batch, cut)
        except Exception as error:  # noqa: BLE001 - the top of a run: its callers get it, each in his own thread
            if len(batch) == 1:
                self._fail(batch[0], error)
                return None
            middle = len(batch) // 2
            self._run_batch(batch[:middle], Cut.NEIGHBOUR_FAILED)
            self._run_batch(batch[middle:], Cut.NEIGHBOUR_FAILED)
            return None
        self.statistics.ran(run)
        if run.infer_s < QUICK_S:
            self._quick_elements = max(self._quick_elements, self._elements(batch))
        for place, answer in zip(batch, answers, strict=True):
            place.settle(answer)
        return run.infer_s

    def _run_joined(self, batch: Sequence[Place], cut: Cut) -> tuple[Sequence[Arrays], Run]:
        began = self._clock()
        joined = join(batch, self._padding)
        ready = self._clock()
        outputs = self._runner.run(joined.inputs, joined.outputs)
        ran = self._clock()
        answers = split(outputs, batch, self._padding, joined.length)
        return answers, Run(
            rows=sum([place.rows for place in batch]),
            queued_s=[began - place.arrived for place in batch],
            input_s=ready - began,
            infer_s=ran - ready,
            output_s=self._clock() - ran,
            cut=cut,
            elements=joined.elements,
            padding=joined.padding,
        )
