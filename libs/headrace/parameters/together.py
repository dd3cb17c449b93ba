"""The same work for all shards of a store, at once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from headrace.errors import Cancelled, HeadraceError
from headrace.parameters.operation import Operation
from headrace.parameters.route import Route

Result = TypeVar("Result")

_LEAVE_S = 5.0  # that closing waits for work to end: it has been stopped, and has only to notice


class Together:
    """Does work for shards 0 to `count` - 1; any thread may ask for it, and several at once.

    Args:
        timeout_s: Time for one piece of work with all of them.
        routes: The ways to them, where these may lead elsewhere: to a process that has taken a shard over.
    """

    def __init__(self, count: int, timeout_s: float, routes: Sequence[Route[Any]] = ()) -> None:
        self._count = count
        self._routes = routes
        self.timeout_s = timeout_s
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="shard")
        self._changed = threading.Condition()
        self._running: set[Operation] = set()

    def do(self, work: Callable[[Operation, int], Result]) -> list[Result]:
        """Do `work` for every shard index at once; the first failure stops the others and is raised."""
        with self._begun() as operation:

            def attempt(index: int) -> Result:
                try:
                    return self._attempt(operation, index, lambda: work(operation, index))
                except BaseException:  # KeyboardInterrupt too: nothing of it goes on alone
                    operation.stop()
                    raise

            others = self._submit(attempt)
            first: Future[Result] = Future()
            try:
                # In this thread: to wake another takes as long as a small transfer.
                first.set_result(attempt(0))
            except HeadraceError as error:
                first.set_exception(error)
            finally:
                wait(others)
            return _results([first, *others])

    @contextmanager
    def _begun(self) -> Iterator[Operation]:
        """Let `close` find an operation as long as it runs."""
        operation = Operation(self.timeout_s)
        with self._changed:
            if self._closed.is_set():
                raise Cancelled("the client is closed")
            self._running.add(operation)
        try:
            yield operation
        finally:
            with self._changed:
                self._running.discard(operation)
                self._changed.notify_all()

    def _attempt(self, operation: Operation, index: int, work: Callable[[], Result]) -> Result:
        if not self._routes:
            return operation.attempt(work)
        route = self._routes[index]
        done = operation.attempt(work, route.turn)
        route.learn(operation)
        return done

    def _submit(self, attempt: Callable[[int], Result]) -> list[Future[Result]]:
        try:
            return [self._threads.submit(attempt, index) for index in range(1, self._count)]
        except RuntimeError as error:
            raise Cancelled("the client was closed") from error

    def pause(self, seconds: float) -> None:
        """Wait; Cancelled if there is nothing to wait for any more."""
        if self._closed.wait(seconds):
            raise Cancelled("the client was closed")

    def close(self) -> None:
        """End what runs, and whatever comes later; it raises Cancelled. Returns when nothing runs any more, so that connections can go."""
        with self._changed:
            self._closed.set()
            running = list(self._running)
        for operation in running:
            operation.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _LEAVE_S)
        self._threads.shutdown(wait=False)


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    """Return what all found, or raise what failed first; a `Cancelled` only tells that another did."""
    failures = [error for error in (future.exception() for future in futures) if error]
    for error in sorted(failures, key=lambda failure: isinstance(failure, Cancelled)):
        raise error
    return [future.result() for future in futures]
