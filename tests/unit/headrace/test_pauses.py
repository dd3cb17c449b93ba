"""Pauses between tries."""

from itertools import islice

from headrace.pauses import Pauses

PAUSES = Pauses(0.1, 2.0)


def test_each_is_twice_as_long_as_the_one_before_up_to_the_longest() -> None:
    assert list(islice(PAUSES, 7)) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_they_begin_anew_for_whoever_begins() -> None:
    first = iter(PAUSES)
    assert (next(first), next(first), next(iter(PAUSES))) == (0.1, 0.2, 0.1)


def test_the_longest_holds_however_often_something_fails() -> None:
    """A process that cannot start fails thousands of times in a day."""
    assert PAUSES.after(1_000_000) == 2.0
