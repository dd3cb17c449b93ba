"""Requests of a model that gives any number of answers: none is forgotten, whatever becomes of the model."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from headrace_inference.core.batching import Arrays, Batching
from headrace_inference.core.signature import Signature
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.statistics import BatchStatistics

WAIT_S = 20  # a bound for tests that would otherwise hang


class Gated:
    """Gives x once, when the test lets it."""

    signature = Signature((), ())

    def __init__(self) -> None:
        self.gate = threading.Event()

    def answers(self, inputs: Arrays, outputs: Sequence[str]) -> Iterator[Arrays]:
        assert self.gate.wait(WAIT_S)
        yield inputs

    def close(self) -> None:
        """Hold nothing."""


class Receiver:
    """Remembers what came, and when all has."""

    def __init__(self) -> None:
        self.given: list[Arrays] = []
        self.errors: list[Exception] = []
        self.done = threading.Event()

    def give(self, outputs: Arrays) -> None:
        self.given.append(outputs)

    def finish(self) -> None:
        self.done.set()

    def fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.done.set()


def test_those_that_wait_when_nobody_waits_for_them_any_more_are_answered_all_the_same() -> None:
    runner, receivers = Gated(), [Receiver() for _ in range(3)]
    engine = DecoupledEngine(runner, Batching(workers=1), statistics=BatchStatistics())
    for receiver in receivers:
        engine.enter({"x": np.ones(1)}, ("x",), None, lambda _: None, receiver)
    engine.close()
    assert not engine.drain(0)
    runner.gate.set()
    assert all(receiver.done.wait(WAIT_S) for receiver in receivers)
    assert [len(receiver.given) for receiver in receivers] == [1, 1, 1]
