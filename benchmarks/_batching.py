"""What a place in the queue costs, without a wire and without a model: processor time from entering to the answer."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from benchmarks.harness import Case
from headrace_inference.core.batching import Arrays, Batching, Terms
from headrace_inference.engine import Engine
from headrace_inference.place import Place
from headrace_inference.statistics import BatchStatistics

REQUESTS = 10_000  # of a measurement
BATCH = 32
CALLERS = 8
GOAL_US = 10  # of the 45 us that a request may cost altogether
WAIT_S = 10.0  # more than anything here takes

_ROWS = {rows: np.ones((rows, 10), np.float32) for rows in range(1, BATCH + 1)}
_INPUTS = {"x": np.ones((1, 64), np.float32)}


class _Nothing:
    """A model that costs nothing, and can be stopped."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:  # noqa: ARG002 - a runner has both
        self.open.wait()
        return {"y": _ROWS[inputs["x"].shape[0]]}


def _watch(_: Callable[[], None]) -> None:
    """Be a caller who stays."""


@contextmanager
def batching() -> Iterator[Sequence[Case]]:
    """The queue, the batches and the statistics; every request has a deadline."""
    model = _Nothing()
    engine = Engine(model, Batching(max_size=BATCH), joins=True, statistics=BatchStatistics())
    yield [
        Case("a lone caller", "us", partial(_alone, engine), goal=GOAL_US),
        Case("batches of 32", "us", partial(_together, engine, Terms()), goal=GOAL_US),
        Case("batches of 32, from 8 callers", "us", partial(_together, engine), goal=GOAL_US),
        Case("batches of 32, called back", "us", partial(_called_back, engine, model), goal=GOAL_US),
    ]
    engine.close()
    engine.drain(WAIT_S)


def _enter(engine: Engine, terms: Terms) -> Place:
    return engine.enter(_INPUTS, ("y",), WAIT_S, _watch, terms)


def _cost_us(rounds: int, requests: int, work: Callable[[], object]) -> float:
    begin = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - begin) / (rounds * requests) * 1e6


def _alone(engine: Engine) -> float:
    return _cost_us(REQUESTS, 1, lambda: _enter(engine, Terms()).wait())


def _together(engine: Engine, terms: Terms | None = None) -> float:
    """One thread is all callers: the first request holds the worker while the others come."""
    names = [terms or Terms(number % CALLERS) for number in range(BATCH)]

    def work() -> None:
        places = [_enter(engine, Terms()), *(_enter(engine, name) for name in names)]
        for place in places:
            place.wait()

    return _cost_us(REQUESTS // BATCH, BATCH + 1, work)


def _called_back(engine: Engine, model: _Nothing) -> float:
    def work() -> None:
        done = threading.Semaphore(0)
        model.open.clear()
        for _ in range(BATCH + 1):
            _enter(engine, Terms()).then(done.release)
        model.open.set()
        for _ in range(BATCH + 1):
            done.acquire()

    return _cost_us(REQUESTS // BATCH, BATCH + 1, work)
