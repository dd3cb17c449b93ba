"""Runs models that give any number of answers to a request: each request in a thread of its own, its answers as they come."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from headrace.errors import Cancelled, DeadlineExceeded, HeadraceError, ResourceExhausted
from headrace_inference.core.batching import RETRY_AFTER_S, Arrays, Batching, Cut
from headrace_inference.core.signature import Signature
from headrace_inference.engine import Clock, EngineClosed, Watch
from headrace_inference.response_statistics import ResponseStatistics
from headrace_inference.statistics import BatchStatistics, Run


@runtime_checkable
class DecoupledRunner(Protocol):
    """A model that gives any number of answers; thread-safe."""

    @property
    def signature(self) -> Signature:
        """What it takes, and what an answer may hold."""

    def answers(self, inputs: Arrays, outputs: Sequence[str]) -> Iterator[Arrays]:
        """Yield the wished outputs as often as there are any; closed early when nobody waits any more.

        Args:
            inputs: Checked against the signature; read, never written.
        Raises:
            HeadraceError: As `Runner.run`.
        """

    def close(self) -> None:
        """As `Runner.close`."""


class Receiver(Protocol):
    """Who takes the answers to a request; the engine's thread calls, and may be kept waiting by a slow caller."""

    def give(self, outputs: Arrays) -> None:
        """Take the next answer."""

    def finish(self) -> None:
        """Take note that no more follow."""

    def fail(self, error: Exception) -> None:
        """Take an error instead of more answers."""


class DecoupledEngine:
    """One loaded model that gives any number of answers; thread-safe.

    Args:
        batching: How many requests run at a time, and how many wait.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        runner: DecoupledRunner,
        batching: Batching,
        *,
        statistics: BatchStatistics,
        clock: Clock = time.monotonic,
    ) -> None:
        self._runner = runner
        self._batching = batching
        self.statistics = statistics
        self.responses = ResponseStatistics()
        self._clock = clock
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(batching.workers, thread_name_prefix="decoupled")

    def enter(
        self,
        inputs: Arrays,
        outputs: Sequence[str],
        timeout_s: float | None,
        watch: Watch,
        receiver: Receiver,
    ) -> None:
        """Let a checked request in; what becomes of it is told to the receiver.

        Args:
            timeout_s: How long it may wait for a thread; None: as long as it takes.
            watch: Is given a function to call when the caller is gone.
        Raises:
            ResourceExhausted: As many as may be are inside.
            EngineClosed: It is closed; nothing ran.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            if self._closed:
                raise EngineClosed
            if self._inside >= self._batching.workers + self._batching.max_waiting:
                raise ResourceExhausted(
                    f"{self._inside} requests run or wait for the model already; send again later",
                    metadata={"waiting": self.waiting},
                    retry_after_s=RETRY_AFTER_S,
                )
            self._inside += 1
        request = _Request(inputs, outputs, deadline, self._clock(), receiver)
        watch(request.gone.set)
        self._threads.submit(self._run, request)

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread now."""
        return max(0, self._inside - self._batching.workers)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is inside."""
        return not self._inside

    def close(self) -> None:
        """Take no more requests; those inside are answered."""
        with self._changed:
            self._closed = True

    def drain(self, bound_s: float) -> bool:
        """Wait until nothing is inside; return False if that took longer than `bound_s`."""
        with self._changed:
            drained = self._changed.wait_for(lambda: not self._inside, bound_s)
        self._threads.shutdown(wait=False)  # those that still wait for a thread get one, and are told
        return drained

    def _run(self, request: "_Request") -> None:
        began = self._clock()
        try:
            self._answer(request, began)
        except Exception as error:  # noqa: BLE001 - the top of a run: its caller gets it
            reason = error.reason if isinstance(error, HeadraceError) else "INTERNAL"
            self.statistics.failed(reason, self._clock() - request.arrived)
            request.receiver.fail(error)
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _answer(self, request: "_Request", began: float) -> None:
        if request.gone.is_set():
            raise Cancelled("the caller went away before a worker was free")
        if request.deadline is not None and request.deadline <= began:
            raise DeadlineExceeded("the time to wait was over before a worker was free; allow more of it")
        answers = self._runner.answers(request.inputs, request.outputs)
        try:
            self._pass_on(request, answers)
        finally:
            getattr(answers, "close", lambda: None)()  # a generator, if it is one, ends here and now
        self._count(request, began)
        request.receiver.finish()

    def _pass_on(self, request: "_Request", answers: Iterator[Arrays]) -> None:
        position = 0
        while True:
            asked = self._clock()
            try:
                outputs = next(answers, None)
            except HeadraceError:
                self.responses.failed(position, self._clock() - asked)
                raise
            came = self._clock()
            if request.gone.is_set():
                self.responses.cancelled(position, came - asked)
                raise Cancelled("the caller went away")
            if outputs is None:
                self.responses.ended(position, came - asked)
                return
            request.receiver.give(outputs)
            self.responses.sent(position, came - asked, self._clock() - came)
            position += 1

    def _count(self, request: "_Request", began: float) -> None:
        self.statistics.ran(
            Run(
                rows=1,
                queued_s=[began - request.arrived],
                input_s=0.0,
                infer_s=self._clock() - began,
                output_s=0.0,
                cut=Cut.UNBATCHED,
            )
        )


class _Request:
    def __init__(
        self,
        inputs: Arrays,
        outputs: Sequence[str],
        deadline: float | None,
        arrived: float,
        receiver: Receiver,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.deadline = deadline
        self.arrived = arrived
        self.receiver = receiver
        self.gone = threading.Event()
