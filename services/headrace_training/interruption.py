"""Waiting that ends when the task is to end, for calls into C++ that nothing else wakes."""

import contextlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from headrace.errors import Cancelled, DeadlineExceeded, HeadraceError

Result = TypeVar("Result")


class Interruptible:
    """Does what blocks in a thread of its own, one thing at a time.

    A thread that was left alone ends with the process: the child of a task goes by `os._exit`.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collective")
        self._stopped: Future[HeadraceError] = Future()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.done()

    def stop(self, why: HeadraceError | None = None) -> None:
        """Let go of what runs and of whatever follows, from any thread; the first call counts.

        Args:
            why: What `run` raises; None: that the rank was asked to.
        """
        with contextlib.suppress(InvalidStateError):
            self._stopped.set_result(why or Cancelled("the rank was asked to stop"))

    def raise_if_stopped(self) -> None:
        """Raise why, if `stop` was called."""
        if self._stopped.done():
            raise self._stopped.result()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until `stop` is called."""
        self._wait(self._stopped, seconds)

    def run(self, work: Callable[[], Result], timeout_s: float | None, what: str) -> Result:
        """Return what `work` returns.

        Args:
            timeout_s: None: as long as it takes.
            what: Names it in the error: "step".
        Raises:
            Cancelled, HeadraceError: `stop` was called.
            DeadlineExceeded: It did not end in time.
        """
        future = self._thread.submit(work)
        self._wait(future, timeout_s)
        if self._stopped.done():
            raise self._stopped.result()
        if not future.done():
            raise DeadlineExceeded(
                f"the {what} was not done within {timeout_s:g} s: a rank is frozen, or far slower than the others; look at "
                f"the other ranks' tasks, or allow for it with HEADRACE_TRAINING_STEP_TIMEOUT_S"
            )
        return future.result()

    def _wait(self, future: Future[Any], seconds: float | None) -> None:
        futures: set[Future[Any]] = {future, self._stopped}
        wait(futures, seconds, FIRST_COMPLETED)
