"""A lone run takes as many threads as prove to be fastest, and no more where it is too short to gain."""

import itertools

from headrace_inference.core.elastic import FIRST_PAUSE, LONGEST_PAUSE, WORTH_S, Elastic

ELEMENTS = 1000


def runs(elastic: Elastic, seconds: dict[int, float], count: int, elements: int = ELEMENTS) -> list[int]:
    """Run `count` times, where way w takes `seconds[w]`; return the ways chosen."""
    chosen = []
    for _ in range(count):
        way = elastic.choose(elements)
        elastic.took(elements, way, seconds[way])
        chosen.append(way)
    return chosen


def test_every_way_is_tried_and_the_fastest_is_kept() -> None:
    assert runs(Elastic(3), {0: 0.006, 1: 0.004, 2: 0.002}, 8) == [0, 1, 2, 2, 2, 2, 2, 2]


def test_a_short_run_never_wakes_a_second_thread() -> None:
    assert set(runs(Elastic(3), {0: WORTH_S / 2}, 1000)) == {0}


def test_with_one_way_there_is_no_choice() -> None:
    assert set(runs(Elastic(1), {0: 1.0}, 100)) == {0}


def test_sizes_are_judged_apart() -> None:
    elastic = Elastic(2)
    runs(elastic, {0: WORTH_S / 2}, 10, elements=10)
    assert runs(elastic, {0: 0.02, 1: 0.01}, 4, elements=10_000) == [0, 1, 1, 1]


def test_when_the_machine_gets_busy_the_way_changes_and_changes_back() -> None:
    elastic = Elastic(2)
    runs(elastic, {0: 0.006, 1: 0.002}, 4)
    assert runs(elastic, {0: 0.006, 1: 0.030}, 5)[-1] == 0
    assert runs(elastic, {0: 0.006, 1: 0.002}, 4 * FIRST_PAUSE)[-1] == 1


def test_a_way_that_goes_on_losing_is_tried_more_and_more_seldom() -> None:
    chosen = runs(Elastic(2), {0: 0.006, 1: 0.030}, 20 * LONGEST_PAUSE)
    tries = [number for number, way in enumerate(chosen) if way == 1]
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)
