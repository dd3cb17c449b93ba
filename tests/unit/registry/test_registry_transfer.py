"""How long a transfer keeps trying."""

from collections.abc import Callable

import pytest

from headrace.errors import Unavailable
from headrace.registry.transfer import Attempts, Patience
from headrace.testing import FakeClock

GONE = Unavailable("cannot reach the registry")


def tries(attempts: Attempts, limit: int, work: Callable[[int], object] = lambda count: None) -> int:
    """Do some work and fail, until the attempts give up; at most `limit` times."""
    for count in range(limit):
        work(count)
        try:
            attempts.failed(GONE)
        except Unavailable:
            return count
    return limit


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_registry_that_stays_away_is_given_up(clock: FakeClock) -> None:
    begun = clock.now
    attempts = Attempts(Patience(timeout_s=3600, stalled_s=30), clock, clock.advance)

    assert 10 < tries(attempts, 1000) < 100
    assert 27 < clock.now - begun <= 30


def test_progress_renews_the_patience_until_the_time_is_up(clock: FakeClock) -> None:
    begun = clock.now
    attempts = Attempts(Patience(timeout_s=100, stalled_s=30), clock, clock.advance)

    def work(count: int) -> None:
        attempts.reached(count)
        clock.advance(10)

    assert 8 < tries(attempts, 1000, work) < 11
    assert clock.now - begun > 89


def test_standing_still_is_no_progress(clock: FakeClock) -> None:
    attempts = Attempts(Patience(timeout_s=3600, stalled_s=30), clock, clock.advance)
    assert tries(attempts, 1000, lambda _: attempts.reached(5)) < 100


def test_the_deadline_of_a_call_shrinks_but_never_vanishes(clock: FakeClock) -> None:
    attempts = Attempts(Patience(timeout_s=100), clock, clock.advance)
    clock.advance(60)
    assert attempts.remaining_s == pytest.approx(40)
    clock.advance(60)
    assert attempts.remaining_s > 0
