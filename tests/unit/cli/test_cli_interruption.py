"""Ctrl-C while a call runs: the call is ended, and only then the command is."""

import signal
import threading
from collections.abc import Iterator

import pytest

from headrace.cli.interruption import interruptible
from headrace.errors import Cancelled, NotFound


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """As a person's terminal has it, whatever ran before; no test may leave another behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_call_ends_before_the_interruption_is_raised() -> None:
    stopped = threading.Event()
    ended = threading.Event()

    def call() -> None:
        ctrl_c()
        assert stopped.wait(60)
        ended.set()
        raise Cancelled("the channel was closed")

    with pytest.raises(KeyboardInterrupt), interruptible(stopped.set):
        call()
    assert ended.is_set()


def test_work_that_ends_well_in_spite_of_it_is_interrupted_too() -> None:
    stopped = threading.Event()
    with pytest.raises(KeyboardInterrupt), interruptible(stopped.set):
        ctrl_c()
    assert stopped.is_set()


def test_without_an_interruption_nothing_is_stopped_and_errors_are_errors() -> None:
    stopped = threading.Event()
    with interruptible(stopped.set):
        pass
    with pytest.raises(NotFound), interruptible(stopped.set):
        raise NotFound("no job mine")
    assert not stopped.is_set()


def test_a_second_ctrl_c_does_not_wait_for_the_call() -> None:
    def call_of_the_impatient() -> None:
        ctrl_c()
        ctrl_c()
        pytest.fail("went on after the second Ctrl-C")

    with pytest.raises(KeyboardInterrupt), interruptible(lambda: None):
        call_of_the_impatient()


def test_the_inner_of_two_takes_it() -> None:
    inner, outer = threading.Event(), threading.Event()
    with interruptible(outer.set), pytest.raises(KeyboardInterrupt), interruptible(inner.set):
        ctrl_c()
    assert (inner.is_set(), outer.is_set()) == (True, False)


def test_where_it_is_ignored_it_stays_ignored() -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible(stopped.set):
        ctrl_c()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN
    assert not stopped.is_set()
