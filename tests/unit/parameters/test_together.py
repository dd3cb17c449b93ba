"""The same work for all shards at once: how closing the client ends it."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from headrace.errors import Cancelled, HeadraceError, Unavailable
from headrace.parameters.operation import Operation
from headrace.parameters.together import Together

WAIT_S = 10.0


class Call:
    """A call that waits until it is cancelled, and then fails as the connection it was on makes it."""

    def __init__(self, error: HeadraceError) -> None:
        self._error = error
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def result(self) -> None:
        assert self._cancelled.wait(WAIT_S), "nobody cancelled the call"
        raise self._error


def test_closing_ends_everything_that_runs_not_only_what_began_last() -> None:
    together, begun = Together(2, WAIT_S), threading.Barrier(5)

    def wait(operation: Operation, _index: int) -> None:
        call = operation.track(Call(Unavailable("the lane broke")))
        begun.wait(WAIT_S)
        call.result()

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(together.do, wait) for _ in range(2)]
        begun.wait(WAIT_S)
        together.close()
        for each in running:
            with pytest.raises(Cancelled, match="stopped"):
                each.result(WAIT_S)


def test_when_it_is_closed_nothing_runs_any_more() -> None:
    """Whoever closes takes the connections away next: a call that began on one then would fail as nothing the caller knows."""
    together, begun, ended = Together(1, WAIT_S), threading.Event(), list[int]()

    def work(operation: Operation, index: int) -> None:
        call = operation.track(Call(Cancelled("cancelled")))
        begun.set()
        try:
            call.result()
        finally:
            threading.Event().wait(0.05)  # a copy that is not done yet
            ended.append(index)

    with ThreadPoolExecutor(1) as threads:
        running: Future[list[None]] = threads.submit(together.do, work)
        assert begun.wait(WAIT_S)
        together.close()
        assert ended == [0]
        assert isinstance(running.exception(WAIT_S), Cancelled)


def test_what_comes_after_closing_is_cancelled() -> None:
    together = Together(2, WAIT_S)
    together.close()
    with pytest.raises(Cancelled, match="closed"):
        together.do(lambda _operation, index: index)


def test_a_part_of_an_operation_stops_with_it() -> None:
    operation = Operation(WAIT_S)
    part = operation.within(1.0)
    assert part.remaining_s <= 1.0
    operation.stop()
    with pytest.raises(Cancelled):
        part.attempt(lambda: None)
    with pytest.raises(Cancelled):
        operation.within(1.0).attempt(lambda: None)
