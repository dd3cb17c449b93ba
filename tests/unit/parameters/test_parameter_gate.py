"""Which pushes wait while the shards of a store come to one moment, and what ends the waiting."""

import threading

import pytest

from headrace.errors import Aborted, Unavailable
from headrace_parameters.gate import HOLD_S, LONGEST_WAIT_S, NOTHING, Gate


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
        gate.hold({0: 3}, HOLD_S)
    clock.now += HOLD_S
    assert entered(gate, lock, step=3, worker=0).wait(20)


def test_a_shard_that_went_on_is_not_at_the_moment_of_the_others() -> None:
    lock = threading.Lock()
    gate = Gate(lock)
    with lock, pytest.raises(Aborted, match="has gone on"):
        gate.meet({0: 3, 1: 5}, lambda: {0: 4, 1: 5})


def test_whoever_waits_for_longer_than_a_minute_is_told_to_come_again() -> None:
    lock, clock = threading.Lock(), Clock()

    def later() -> float:
        clock.now += LONGEST_WAIT_S / 2
        return clock.now

    gate = Gate(lock, later)
    with lock:
        gate.hold(NOTHING)
        with pytest.raises(Unavailable, match="held for long"):
            gate.enter(0, 0)


def test_a_snapshot_that_comes_too_late_does_not_open_what_is_held_for_values_to_move() -> None:
    lock = threading.Lock()
    gate = Gate(lock)

    def position() -> dict[int, int]:
        gate.hold(NOTHING)  # as another thread may while the snapshot waits
        return {0: 3}

    with lock, pytest.raises(Aborted):
        gate.meet({0: 5}, position)
    waiting = entered(gate, lock, step=3, worker=0)
    assert not waiting.wait(0.05)
    with lock:
        gate.open()
    assert waiting.wait(20)


def test_whoever_brings_a_shard_to_a_cut_hears_whether_it_is_there() -> None:
    lock = threading.Lock()
    gate = Gate(lock)
    with lock:
        assert gate.reach({0: 3}, lambda: {0: 3}, timeout_s=20)
        assert not gate.reach({0: 4}, lambda: {0: 3}, timeout_s=20, over=lambda: True)
        assert not gate.reach({0: 4}, lambda: {0: 3}, timeout_s=0)
    assert entered(gate, lock, step=3, worker=0).wait(20)
    waiting = entered(gate, lock, step=4, worker=0)
    assert not waiting.wait(0.05)
    with lock:
        gate.open()
    assert waiting.wait(20)
