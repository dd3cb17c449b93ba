"""Which pushes wait while the shards of a store come to one moment, and what ends the waiting."""

import threading

import pytest

from headrace.errors import Aborted
from headrace.parameters.saving import latest
from headrace_parameters.gate import HOLD_S, Gate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def entered(gate: Gate, lock: threading.Lock, step: int, worker: int | None = None) -> threading.Event:
    """Try to get in, in a thread; the event tells that it did."""
    inside = threading.Event()

    def enter() -> None:
        with lock:
            gate.enter(step, worker)
            inside.set()

    threading.Thread(target=enter, daemon=True).start()
    return inside


def test_pushes_before_the_cut_get_in_and_others_wait_until_it_opens() -> None:
    lock = threading.Lock()
    gate = Gate(lock)
    with lock:
        gate.hold({0: 3, 1: 5})
    assert entered(gate, lock, step=2, worker=0).wait(20)
    assert entered(gate, lock, step=4, worker=1).wait(20)
    assert entered(gate, lock, step=4).wait(20), "a step of all workers"
    waiting = [
        entered(gate, lock, step=3, worker=0),
        entered(gate, lock, step=5),
        entered(gate, lock, step=0, worker=2),  # who came meanwhile
    ]
    assert not any(inside.wait(0.05) for inside in waiting)
    with lock:
        gate.open()
    assert all(inside.wait(20) for inside in waiting)


def test_a_gate_that_nobody_opens_holds_nobody_for_long() -> None:
    lock, clock = threading.Lock(), Clock()
    gate = Gate(lock, clock)
    with lock:
        gate.hold({0: 3})
    clock.now += HOLD_S
    assert entered(gate, lock, step=3, worker=0).wait(20)


def test_a_shard_that_went_on_is_not_at_the_moment_of_the_others() -> None:
    lock = threading.Lock()
    gate = Gate(lock)
    with lock, pytest.raises(Aborted, match="has gone on"):
        gate.reach({0: 3, 1: 5}, lambda: {0: 4, 1: 5})


def test_the_moment_to_meet_at_is_the_furthest_of_each_worker() -> None:
    assert latest([{0: 3, 1: 5}, {0: 4, 1: 2}, {2: 1}]) == {0: 4, 1: 5, 2: 1}
