"""Callers with and without threads share one engine: who leads, who waits, and what rings when nobody does."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
)
from headrace.rpc.deferred import be_loop
from headrace.testing import FakeClock, until
from headrace_inference.core.batching import Arrays, Batching
from headrace_inference.core.padding import Padding
from headrace_inference.engine import QUICK_S, Engine
from headrace_inference.place import Place
from headrace_inference.statistics import BatchStatistics
from tests.unit.inference.engine_bench import Bench
from tests.unit.inference.gated_runner import WAIT_S, GatedRunner


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_who_is_called_back_never_blocks_and_threads_of_the_engine_lead(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    callers = [bench.call_back(x) for x in range(4)]
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2], [4], [6]]
    assert bench.runner.ran == [[0], [1, 2, 3]]
    assert bench.engine.drain(WAIT_S)


@pytest.fixture
def loop() -> Iterator[list[Callable[[], object]]]:
    """Make the test's thread one with an event loop, which turns when the test takes something from the list and does it."""
    waiting: list[Callable[[], object]] = []
    be_loop(waiting.append)
    yield waiting
    be_loop(None)


class TimedRunner:
    """Doubles x, and takes so long by the clock of the test."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.ran: list[tuple[list[float], int]] = []  # x, and the thread

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        self._clock.advance(self._seconds)
        self.ran.append((inputs["x"].tolist(), threading.get_ident()))
        return dict.fromkeys(outputs, inputs["x"] * 2)


def timed_engine(seconds: float) -> tuple[Engine, TimedRunner]:
    clock = FakeClock()
    runner = TimedRunner(clock, seconds)
    engine = Engine(runner, Batching(), joins=True, statistics=BatchStatistics(), clock=clock)
    engine.enter(
        {"x": np.array([0.0])}, ("y",), None, lambda _: None
    ).wait()  # now it knows how long a run takes
    return engine, runner


def called_back(engine: Engine, x: float) -> tuple[Place, threading.Event]:
    place, told = engine.enter({"x": np.array([x])}, ("y",), None, lambda _: None), threading.Event()
    place.then(told.set)
    return place, told


def test_quick_batches_run_in_the_event_loop_after_all_that_it_has_read(
    loop: list[Callable[[], object]],
) -> None:
    engine, runner = timed_engine(QUICK_S / 100)
    calls = [called_back(engine, x) for x in (1.0, 2.0, 3.0)]
    assert not any(told.is_set() for _, told in calls)
    while loop:
        loop.pop(0)()
    assert [place.wait()["y"].tolist() for place, _ in calls] == [[2.0], [4.0], [6.0]]
    assert runner.ran[1:] == [([1.0], threading.get_ident()), ([2.0, 3.0], threading.get_ident())]
    assert engine.drain(0)


def test_batches_that_are_not_quick_do_not_hold_up_the_event_loop(loop: list[Callable[[], object]]) -> None:
    engine, runner = timed_engine(2 * QUICK_S)
    place, told = called_back(engine, 1.0)
    assert told.wait(WAIT_S)
    assert not loop
    assert place.wait()["y"].tolist() == [2.0]
    assert runner.ran[1][1] != threading.get_ident()


def test_a_batch_much_larger_than_any_that_was_quick_does_not_hold_up_the_event_loop(
    loop: list[Callable[[], object]],
) -> None:
    engine, runner = timed_engine(QUICK_S / 100)
    place = engine.enter({"x": np.zeros(1000)}, ("y",), None, lambda _: None)
    told = threading.Event()
    place.then(told.set)
    assert told.wait(WAIT_S)
    assert not loop
    assert runner.ran[1][1] != threading.get_ident()


def test_a_model_that_waits_for_another_never_does_so_in_the_event_loop_that_is_to_run_that_one(
    loop: list[Callable[[], object]],
) -> None:
    member, _ = timed_engine(QUICK_S / 100)

    class Ensemble:
        def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
            return member.enter(inputs, ("y",), None, lambda _: None).wait()

    clock = FakeClock()
    ensemble = Engine(
        Ensemble(), Batching(), joins=False, waits=True, statistics=BatchStatistics(), clock=clock
    )
    ensemble.enter({"x": np.array([0.0])}, ("y",), None, lambda _: None).wait()
    calls = [called_back(engine, x) for engine, x in ((member, 1.0), (member, 2.0), (ensemble, 3.0))]

    def turn() -> bool:
        if loop:
            loop.pop(0)()
        return all(told.is_set() for _, told in calls)

    until(turn)
    assert [place.wait()["y"].tolist() for place, _ in calls] == [[2.0], [4.0], [6.0]]


def test_callers_with_and_without_threads_share_batches(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    callers = [bench.call_back(0), bench.call(1), bench.call_back(2), bench.call(3), bench.call_back(4)]
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2], [4], [6], [8]]
    assert bench.runner.ran == [[0], [1, 2, 3, 4]]
    more = [bench.call(5), bench.call_back(6), bench.call_back(7)]
    bench.runner.let_through(2)
    assert [caller.y() for caller in more] == [[10], [12], [14]]


def test_who_is_called_back_may_hang_up(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool)
    first, gone = bench.call_back(0), bench.call_back(1)
    gone.hang_up()
    with pytest.raises(Cancelled):
        gone.y()
    bench.runner.let_through()
    assert first.y() == [0]
    assert bench.engine.statistics.snapshot().cancel.count == 1


def test_two_callers_who_are_called_back_run_at_the_same_time_on_two_workers(
    pool: ThreadPoolExecutor,
) -> None:
    bench = Bench(pool, workers=2)
    callers = [bench.call_back(x) for x in range(2)]
    bench.runner.wait_for_a_run()
    bench.runner.wait_for_a_run()
    bench.runner.let_through(2)
    assert [caller.y() for caller in callers] == [[0], [2]]


def test_with_a_delay_requests_wait_for_each_other_beside_a_free_worker(pool: ThreadPoolExecutor) -> None:
    bench = Bench(pool, max_delay_s=2, max_size=8)
    callers = [bench.call(0), bench.call_back(1)]
    bench.pass_time(2)
    bench.runner.let_through()
    assert [caller.y() for caller in callers] == [[0], [2]]
    assert bench.runner.ran == [[0, 1]]


def test_the_alarm_rings_by_itself(pool: ThreadPoolExecutor) -> None:
    runner = GatedRunner()
    engine = Engine(runner, Batching(max_delay_s=0.001), joins=True, statistics=BatchStatistics())
    delayed = pool.submit(engine.enter({"x": np.ones(1)}, ("y",), None, lambda _: None).wait)
    runner.wait_for_a_run()
    with pytest.raises(DeadlineExceeded):
        engine.enter({"x": np.ones(1)}, ("y",), 0.01, lambda _: None).wait()
    runner.let_through()
    assert delayed.result(WAIT_S)["y"].tolist() == [2]
    assert engine.drain(WAIT_S)


def test_requests_of_different_lengths_run_together_and_the_padding_is_counted(
    pool: ThreadPoolExecutor,
) -> None:
    bench = Bench(pool, padding=Padding(inputs={"x": 1}, outputs={"y": 1}))
    rows = [np.array([[0.0]]), np.array([[1.0]]), np.array([[2.0, 3.0, 4.0]])]
    places = [bench.engine.enter({"x": x}, ("y",), None, lambda _: None) for x in rows]
    answers = [pool.submit(place.wait) for place in places]
    bench.runner.let_through(2)
    assert [answer.result(WAIT_S)["y"].tolist() for answer in answers] == [[[0]], [[2]], [[4, 6, 8]]]
    seen = bench.engine.statistics.snapshot()
    assert (seen.elements, seen.padding) == (1 + 6, 2)


@pytest.mark.parametrize("called_back", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_callers_do_each_gets_his_own_answer_or_an_error_and_nothing_is_left(
    seed: int, called_back: bool
) -> None:
    """Sixteen callers send good and bad rows, hang up at any moment and run out of time, on two workers."""

    class Doubling:
        def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
            if (inputs["x"] < 0).any():
                raise InvalidArgument("negative")
            return {"y": inputs["x"] * 2}

    engine = Engine(Doubling(), Batching(2, 4, 8), joins=True, statistics=BatchStatistics())

    def caller(number: int) -> None:
        random = np.random.default_rng([seed, number])
        for turn in range(300):
            value = float(number * 1000 + turn) * (-1 if random.random() < 0.1 else 1)
            hang_ups: list[Callable[[], None]] = []
            timeout_s = 1e-4 if random.random() < 0.2 else WAIT_S
            try:
                place = engine.enter({"x": np.array([value])}, ("y",), timeout_s, hang_ups.append)
                if random.random() < 0.2:
                    hang_ups[0]()
                if called_back and turn % 2:
                    told = threading.Event()
                    place.then(told.set)
                    assert told.wait(WAIT_S)
                assert place.wait()["y"].tolist() == [value * 2]
            except (Cancelled, DeadlineExceeded, InvalidArgument, ResourceExhausted):
                continue

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(caller, range(16)))
    assert engine.waiting == 0
    assert engine.drain(WAIT_S)


def test_a_closed_engine_is_forgotten_with_its_last_answer_though_nobody_waited_for_it(
    pool: ThreadPoolExecutor,
) -> None:
    """Its threads would keep the model in memory."""
    runner = GatedRunner()
    engine = Engine(runner, Batching(), joins=True, statistics=BatchStatistics())
    forgotten = weakref.ref(engine)
    places = [engine.enter({"x": np.ones(1)}, ("y",), WAIT_S, lambda _: None) for _ in range(2)]
    answered = threading.Semaphore(0)
    for place in places:
        place.then(answered.release)
    engine.close()
    assert not engine.drain(0)
    runner.let_through(2)
    for _ in range(2):
        assert answered.acquire(timeout=WAIT_S)
    del engine, place, places
    until(lambda: gc.collect() >= 0 and forgotten() is None)
