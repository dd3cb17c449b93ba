"""How long a client waits for a service that does not answer."""

import pytest

from headrace.client.retries import PAUSES, Retries
from headrace.errors import DeadlineExceeded, Unavailable
from headrace.testing import FakeClock


def test_pauses_double_up_to_a_bound() -> None:
    clock = FakeClock()
    retries = Retries(100.0, lambda: clock.now)

    pauses = [retries.pause_after(Unavailable("gone")) for _ in range(8)]

    assert pauses[:2] == [PAUSES.first_s, 2 * PAUSES.first_s]
    assert pauses[-1] == PAUSES.longest_s


def test_a_failure_is_final_when_no_time_is_left_for_another_try() -> None:
    clock = FakeClock()
    retries = Retries(1.0, lambda: clock.now)
    clock.advance(0.95)

    with pytest.raises(Unavailable, match="gone"):
        retries.pause_after(Unavailable("gone"))


def test_a_last_try_cut_short_is_blamed_on_the_failure_before() -> None:
    """A try that had 80 ms left did not answer in time, but that is not what is wrong."""
    clock = FakeClock()
    retries = Retries(1.0, lambda: clock.now)
    retries.pause_after(Unavailable("nobody listens at 127.0.0.1:1"))

    cause = retries.cause(DeadlineExceeded("no answer within 0.08 s"))

    assert isinstance(cause, Unavailable)


def test_a_first_try_that_takes_too_long_is_told_as_that() -> None:
    retries = Retries(1.0, lambda: 0.0)

    assert isinstance(retries.cause(DeadlineExceeded("no answer within 1 s")), DeadlineExceeded)
