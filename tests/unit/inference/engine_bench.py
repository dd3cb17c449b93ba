"""An engine over a gated model, and callers with and without threads of their own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from headrace.errors import HeadraceError
from headrace.testing import FakeClock
from headrace_inference.core.batching import Arrays, Batching
from headrace_inference.engine import Engine
from headrace_inference.place import Place
from headrace_inference.statistics import BatchStatistics
from tests.unit.inference.gated_runner import WAIT_S, GatedRunner


class Bench:
    """An engine over a gated model; calls enter in the test's own thread, in order, and wait in others."""

    def __init__(self, pool: ThreadPoolExecutor, *, joins: bool = True, **batching: Any) -> None:
        self.runner = GatedRunner()
        self.clock = FakeClock()
        self.engine = Engine(
            self.runner, Batching(**batching), joins=joins, statistics=BatchStatistics(), clock=self.clock
        )
        self._pool = pool

    def call(self, *x: float, timeout_s: float | None = None) -> "Caller":
        hang_ups: list[Callable[[], None]] = []
        inputs = {"x": np.array(x, np.float32)}
        place = self.engine.enter(inputs, ("y",), timeout_s, hang_ups.append)
        return Caller(place, self._pool.submit(place.wait), hang_ups[0])

    def call_back(self, *x: float, timeout_s: float | None = None) -> "Caller":
        """Let a caller enter who has no thread to wait in."""
        hang_ups: list[Callable[[], None]] = []
        place = self.engine.enter({"x": np.array(x, np.float32)}, ("y",), timeout_s, hang_ups.append)
        answer: Future[Arrays] = Future()
        place.then(lambda: settle(answer, place))
        return Caller(place, answer, hang_ups[0])

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.engine.ring()


def settle(answer: "Future[Arrays]", place: Place) -> None:
    try:
        answer.set_result(place.wait())
    except HeadraceError as error:
        answer.set_exception(error)


class Caller:
    """One call under way."""

    def __init__(self, place: Place, answer: "Future[Arrays]", hang_up: Callable[[], None]) -> None:
        self.place = place
        self.hang_up = hang_up
        self._answer = answer

    def y(self) -> list[float]:
        values: list[float] = self._answer.result(WAIT_S)["y"].tolist()
        return values
