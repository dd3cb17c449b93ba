"""Which evaluation is the best, and when a run gives up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.program import Goal
from headrace_training.core.selection import Best, Search, Selection

ACCURACY = Goal("accuracy", "max")
EVERY = 10


def stopped(
    values: list[float], selection: Selection, *, start: int = 0, best: Best | None = None
) -> tuple[int, Best | None]:
    """Evaluate every ten steps, from evaluation `start` on; return the step it ends at, and the best."""
    search = Search(selection, ACCURACY, EVERY, best)
    for number in range(start, len(values)):
        step = (number + 1) * EVERY
        search.look(step, {"accuracy": values[number]})
        if search.gives_up(step):
            return step, search.best
    return len(values) * EVERY, search.best


def counted(values: list[float], patience: int, least: float) -> int:
    """Do the same with a counter, as textbooks have it."""
    best, since = -math.inf, 0
    for number, value in enumerate(values):
        best, since = (value, 0) if value - best > least else (best, since + 1)
        if since == patience > 0:
            return (number + 1) * EVERY
    return len(values) * EVERY


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    patience=st.integers(0, 4),
    least=st.sampled_from([0.0, 0.1]),
)
def test_a_run_ends_after_so_many_evaluations_without_a_better_one(
    values: list[float], patience: int, least: float
) -> None:
    end, best = stopped(values, Selection(patience=patience, minimum_improvement=least))
    assert end == counted(values, patience, least)
    assert best is not None
    if not least:
        assert best.value == max(values[: end // EVERY])
        assert best.step == (values.index(best.value) + 1) * EVERY


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=20), patience=st.integers(1, 4), data=st.data())
def test_a_run_that_goes_on_from_an_older_checkpoint_ends_where_the_uninterrupted_one_does(
    values: list[float], patience: int, data: st.DataObject
) -> None:
    """The best values are kept at once, checkpoints now and then: the best may be newer than where the run goes on."""
    selection = Selection(patience=patience)
    end, best = stopped(values, selection)
    crash = data.draw(st.integers(0, end // EVERY - 1), label="evaluations before the crash")
    checkpoint = data.draw(st.integers(0, crash), label="evaluations before the checkpoint")
    _, kept = stopped(values[:crash], selection)
    assert stopped(values, selection, start=checkpoint, best=kept) == (end, best)


def test_smaller_may_be_better() -> None:
    search = Search(Selection(patience=1), Goal("loss", "min"), EVERY, None)
    assert search.look(10, {"loss": 2.0}) == Best(10, "loss", 2.0)
    assert search.look(20, {"loss": 1.0}) == Best(20, "loss", 1.0)
    assert search.look(30, {"loss": 1.5}) is None
    assert search.gives_up(30)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_the_best(value: float) -> None:
    search = Search(Selection(patience=2), ACCURACY, EVERY, None)
    assert search.look(10, {"accuracy": value}) is None
    assert not search.gives_up(10)
    assert search.gives_up(20)


def test_another_metric_than_the_goal_must_say_which_values_are_better() -> None:
    with pytest.raises(
        InvalidArgument, match="'f1' is not the program's goal, 'accuracy'; say whether larger"
    ):
        Search(Selection("f1"), ACCURACY, EVERY, None)
    assert Search(Selection("f1", larger=True), ACCURACY, EVERY, None).look(10, {"f1": 0.5, "accuracy": 0.1})


def test_a_metric_that_is_not_measured_is_named_with_those_that_are() -> None:
    search = Search(Selection("f1", larger=True), ACCURACY, EVERY, None)
    with pytest.raises(InvalidArgument, match="measures accuracy, recall, and no 'f1'"):
        search.look(10, {"recall": 1.0, "accuracy": 1.0})
