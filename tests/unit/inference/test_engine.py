"""Requests of one model run in the threads of their calls, or of the engine: batched, bounded, withdrawn, drained."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
)
from headrace_inference.core.batching import Arrays, Batching, Cut
from headrace_inference.engine import Engine, EngineClosed
from headrace_inference.statistics import NS, BatchStatistics, Duration
from tests.unit.inference.engine_bench import Bench
from tests.unit.inference.gated_runner import WAIT_S


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_a_lone_call_runs_at_once_and_alone(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    caller = bench.call(1, 2)
    bench.runner.let_through()
    assert caller.y() == [2, 4]
    assert bench.runner.ran == [[1, 2]]


def test_calls_that_come_while_one_runs_become_one_batch(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    callers = [bench.call(x) for x in range(5)]
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2], [4], [6], [8]]
    assert bench.runner.ran == [[0], [1, 2, 3, 4]]


def test_a_batch_takes_no_more_than_its_size(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, max_size=3)
    callers = [bench.call(x, x) for x in range(4)]
    bench.runner.let_through(4)
    assert [caller.y() for caller in callers] == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert bench.runner.ran == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_two_workers_run_two_batches_at_a_time(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, workers=2)
    callers = [bench.call(x) for x in range(2)]
    bench.runner.wait_for_a_run()
    bench.runner.wait_for_a_run()
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2]]


def test_a_bad_request_fails_alone_in_the_middle_of_a_batch(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    first, good, bad, better = (bench.call(x) for x in (0, 1, -1, 2))
    bench.runner.let_through(6)
    assert [first.y(), good.y(), better.y()] == [[0], [2], [4]]
    with pytest.raises(InvalidArgument):
        bad.y()
    assert bench.runner.ran == [[0], [1, -1, 2], [1], [-1, 2], [-1], [2]]
    assert bench.engine.statistics.snapshot().failures["INVALID_ARGUMENT"].count == 1


def test_a_bad_request_among_many_costs_a_few_runs_more_not_one_for_each(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, max_size=16)
    callers = [bench.call_back(x) for x in (0, *range(1, 8), -1, *range(9, 17))]
    bench.runner.let_through(100)
    for x, caller in enumerate(callers):
        if x == 8:
            with pytest.raises(InvalidArgument):
                caller.y()
        else:
            assert caller.y() == [2 * x]
    assert len(bench.runner.ran) == 1 + 1 + 2 * 4


def test_a_nan_stays_in_its_own_row(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    callers = [bench.call(x) for x in (0, 1, float("nan"), 2)]
    bench.runner.let_through(2)
    np.testing.assert_equal([caller.y() for caller in callers], [[0], [2], [float("nan")], [4]])


def test_a_deadline_that_passed_before_a_worker_was_free_runs_nothing(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    first, late, patient = bench.call(0), bench.call(1, timeout_s=60), bench.call(2)
    bench.clock.advance(61)
    bench.runner.let_through(2)
    with pytest.raises(DeadlineExceeded, match="before a worker was free"):
        late.y()
    assert [first.y(), patient.y()] == [[0], [4]]
    assert bench.runner.ran == [[0], [2]]


def test_a_waiting_call_is_told_of_its_deadline_while_the_worker_is_still_busy(
    pool: ThreadPoolExecutor,
) -> None:
    bench = Bench(pool)
    first, late = bench.call(0), bench.call(1, timeout_s=60)
    bench.pass_time(61)
    with pytest.raises(DeadlineExceeded):
        late.y()
    bench.runner.let_through()
    assert first.y() == [0]
    assert bench.runner.ran == [[0]]


def test_a_request_that_comes_too_late_does_not_run_even_on_a_free_worker(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    with pytest.raises(DeadlineExceeded):
        bench.call(0, timeout_s=0).y()
    assert bench.runner.ran == []


def test_a_caller_who_hangs_up_gives_the_place_back(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, max_waiting=1)
    first, gone = bench.call(0), bench.call(1)
    gone.hang_up()
    with pytest.raises(Cancelled):
        gone.y()
    next_one = bench.call(2)
    bench.runner.let_through(2)
    assert [first.y(), next_one.y()] == [[0], [4]]
    assert bench.runner.ran == [[0], [2]]


def test_hanging_up_during_a_run_disturbs_nobody(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    first, gone, neighbour = bench.call(0), bench.call(1), bench.call(2)
    bench.runner.let_through()
    bench.runner.wait_for_a_run()
    bench.runner.wait_for_a_run()
    gone.hang_up()
    bench.runner.let_through()
    assert [first.y(), neighbour.y()] == [[0], [4]]


def test_a_caller_who_was_gone_before_he_entered_runs_nothing(pool: ThreadPoolExecutor) -> None:
    """A callback is called at once by gRPC when the call has ended already."""
    bench = Bench(pool)
    place = bench.engine.enter({"x": np.ones(1)}, ("y",), None, lambda hang_up: hang_up())
    with pytest.raises(Cancelled):
        place.wait()
    assert bench.runner.ran == []
    assert bench.engine.drain(0)


def test_a_full_queue_refuses_and_those_inside_are_served(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, max_waiting=2)
    callers = [bench.call(x) for x in range(3)]
    with pytest.raises(ResourceExhausted):
        bench.call(3)
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2], [4]]


def test_a_closed_engine_answers_those_inside_and_nobody_else(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    inside = [bench.call(0), bench.call(1)]
    bench.engine.close()
    with pytest.raises(EngineClosed):
        bench.call(2)
    assert not bench.engine.drain(0)
    bench.runner.let_through(2)
    assert [caller.y() for caller in inside] == [[0], [2]]
    assert bench.engine.drain(WAIT_S)


def test_every_batch_is_counted_with_its_times_and_why_it_was_cut(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    callers = [bench.call(0)]
    bench.clock.advance(1)
    callers += [bench.call(1), bench.call(2, 3)]
    bench.clock.advance(2)
    bench.runner.let_through(2)
    for caller in callers:
        caller.y()
    seen = bench.engine.statistics.snapshot()
    assert (seen.inferences, seen.executions, seen.success.count) == (4, 2, 3)
    assert seen.queue == Duration(3, 4 * NS)
    assert list(seen.batches) == [1, 3]
    assert seen.cuts == {Cut.IDLE: 1, Cut.DRAINED: 1}


def test_an_error_that_nobody_foresaw_reaches_its_caller_and_frees_the_worker(
    pool: ThreadPoolExecutor,
) -> None:
    class Broken:
        def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
            raise ZeroDivisionError

    engine = Engine(Broken(), Batching(), joins=True, statistics=BatchStatistics())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            engine.enter({"x": np.ones(1)}, ("y",), None, lambda _: None).wait()
    assert engine.drain(0)
