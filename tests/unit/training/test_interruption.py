"""Waits that nothing but a stop or a deadline ends."""

import threading

import pytest

from headrace.errors import Cancelled, DeadlineExceeded, Unavailable
from headrace_training.interruption import Interruptible


def test_what_ends_in_time_is_returned_or_raised() -> None:
    waiting = Interruptible()
    assert waiting.run(lambda: 7, 10, "step") == 7

    def lose() -> None:
        raise Unavailable("gone")

    with pytest.raises(Unavailable, match="gone"):
        waiting.run(lose, 10, "step")


def test_what_takes_too_long_says_what_to_look_at() -> None:
    frozen = threading.Event()
    with pytest.raises(DeadlineExceeded, match=r"the step was not done within 0\.05 s.*STEP_TIMEOUT_S"):
        Interruptible().run(frozen.wait, 0.05, "step")
    frozen.set()


def test_a_stop_ends_what_runs_and_all_that_follows() -> None:
    waiting, frozen, begun = Interruptible(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        frozen.wait()

    def stop() -> None:
        begun.wait()
        waiting.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Cancelled):
        waiting.run(hang, 60, "step")
    with pytest.raises(Cancelled):
        waiting.run(hang, 60, "step")
    waiting.pause(60)
    assert waiting.stopped
    stopper.join()
    frozen.set()
