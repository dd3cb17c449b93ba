from collections.abc import Callable
from itertools import chain, repeat

import pytest

from benchmarks.harness import Case, measure


def values(*later: float) -> Callable[[], float]:
    """Return 0 for the round that warms up, then `later`."""
    numbers = chain([0.0], later, repeat(later[-1]))
    return lambda: next(numbers)


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine is ten times slower in the second round; the ratio is 2 in each."""
    slow, quick = measure(
        [Case("slow", "ms", values(2, 20, 2), reference="quick"), Case("quick", "ms", values(1, 10, 1))], 3
    )

    assert (slow.value, slow.low, slow.high, slow.reference, slow.ratio) == (2, 2, 20, 1, 2)
    assert (quick.value, quick.reference, quick.ratio, quick.holds) == (1, None, None, None)


def test_cases_take_turns() -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[], float]:
        def measured() -> float:
            order.append(name)
            return 1.0

        return measured

    measure([Case("a", "ms", note("a")), Case("b", "ms", note("b"))], 2)

    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("goal", "more_is_better", "holds"),
    [(2, False, True), (1.9, False, False), (2, True, True), (2.1, True, False)],
)
def test_a_goal_bounds_the_ratio_from_one_side(goal: float, more_is_better: bool, holds: bool) -> None:
    base = Case("base", "ms", values(1))
    case = Case("case", "ms", values(2), reference="base", goal=goal, more_is_better=more_is_better)

    assert measure([base, case], 5)[1].holds == holds


def test_without_a_reference_the_goal_bounds_the_value() -> None:
    assert measure([Case("alone", "s", values(90), goal=100)], 5)[0].holds
