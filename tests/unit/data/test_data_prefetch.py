"""Reading ahead: in order, bounded, and never anything but what was asked for."""

import threading
from collections.abc import Iterator

import pytest

from headrace.data.prefetch import AHEAD, Prefetcher, ahead


def test_what_is_expected_is_loaded_before_it_is_asked_for() -> None:
    loaded: list[int] = []
    third = threading.Event()

    def load(key: int) -> int:
        loaded.append(key)
        if key == 3:
            third.set()
        return key * 10

    prefetcher = Prefetcher(load)
    assert prefetcher.get(1, [2, 3]) == 10
    assert third.wait(10)
    assert prefetcher.get(2, [3, 4]) == 20
    assert prefetcher.get(3, [4]) == 30
    assert prefetcher.get(4, []) == 40
    assert loaded == [1, 2, 3, 4]


def test_another_step_than_the_expected_one_is_answered_and_the_rest_dropped() -> None:
    """A rank that is told to skip steps, or that the number of ranks changed."""
    gate, loaded = threading.Event(), list[int]()

    def load(key: int) -> int:
        loaded.append(key)
        if key == 2:
            gate.wait(10)
        return key

    prefetcher = Prefetcher(load)
    assert prefetcher.get(1, [2, 3, 4]) == 1
    threading.Timer(0.01, gate.set).start()  # 2 is being loaded when the plan changes; 3 and 4 have not begun
    assert prefetcher.get(9, [10]) == 9
    assert prefetcher.get(10, []) == 10
    assert {3, 4}.isdisjoint(loaded)


def test_an_error_is_raised_where_its_value_is_asked_for() -> None:
    def load(key: int) -> int:
        if key == 2:
            raise KeyError("row 2")
        return key

    prefetcher = Prefetcher(load)
    assert prefetcher.get(1, [2, 3]) == 1
    with pytest.raises(KeyError, match="row 2"):
        prefetcher.get(2, [3])
    assert prefetcher.get(3, []) == 3


def test_an_iterator_is_one_value_ahead_and_ends() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter([]))) == []
    assert AHEAD >= 1


def test_an_iterator_that_raises_raises_in_its_place() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    both = ahead(values())
    assert next(both) == 1
    with pytest.raises(ValueError, match="two"):
        next(both)
