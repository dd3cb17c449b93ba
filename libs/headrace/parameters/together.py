"""The same work for all shards of a store, at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from headrace.errors import Cancelled, HeadraceError
from headrace.parameters.operation import Operation
from headrace.parameters.route import Route

Result = TypeVar("Result")


class Together:
    """Does work for shards 0 to `count` - 1.

    Args:
        timeout_s: Time for one piece of work with all of them.
        routes: The ways to them, where these may lead elsewhere: to a process that has taken a shard over.
    """

    def __init__(self, count: int, timeout_s: float, routes: Sequence[Route] = ()) -> None:
        self._count = count
        self._routes = routes
        self.timeout_s = timeout_s
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="shard")
        self._operation: Operation | None = None

    def do(self, work: Callable[[Operation, int], Result]) -> list[Result]:
        """Do `work` for every shard index at once; the first failure stops the others and is raised."""
        operation = self._operation = Operation(self.timeout_s)
        # Looked at after the operation can be found: whichever of the two comes last, nothing goes on.
        if self._closed.is_set():
            raise Cancelled("the client is closed")

        def attempt(index: int) -> Result:
            try:
                return self._attempt(operation, index, lambda: work(operation, index))
            except BaseException:  # KeyboardInterrupt too: nothing of it goes on alone
                operation.stop()
                raise

        others = self._submit(attempt)
        first: Future[Result] = Future()
        try:
            first.set_result(attempt(0))  # in this thread: to wake another takes as long as a small transfer
        except HeadraceError as error:
            first.set_exception(error)
        finally:
            wait(others)
        return _results([first, *others])

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
        """End what runs, and whatever comes later; it raises Cancelled."""
        self._closed.set()
        if self._operation:
            self._operation.stop()
        self._threads.shutdown()


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    """Return what all found, or raise what failed first; a `Cancelled` only tells that another did."""
    failures = [error for error in (future.exception() for future in futures) if error]
    for error in sorted(failures, key=lambda failure: isinstance(failure, Cancelled)):
        raise error
    return [future.result() for future in futures]
