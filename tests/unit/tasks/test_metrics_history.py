"""The course of a task's measures, in bounded memory and a bounded file."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DataLoss
from headrace.tasks.bounds import MAX_METRICS
from headrace.tasks.history import FILE, MAX_POINTS, History, Series, read_history
from headrace.testing import FakeClock


@given(count=st.integers(1, 20 * MAX_POINTS), first=st.integers(0, 5))
def test_a_series_keeps_evenly_spaced_points_and_the_newest(count: int, first: int) -> None:
    series = Series()
    for number in range(count):
        series.add(first + number, float(number))
    assert len(series.steps) == len(series.values) <= MAX_POINTS
    assert series.values == [float(step - first) for step in series.steps]
    assert (series.steps[0], series.steps[-1]) == (first, first + count - 1)
    assert {(step - first) % series.stride for step in series.steps[:-1]} <= {0}
    assert len(series.steps) > min(count, MAX_POINTS // 2) - 1


def test_few_values_among_many_others_are_all_kept(tmp_path: Path) -> None:
    """An evaluation every hundred steps is not thinned as the loss is."""
    history = History(tmp_path, FakeClock())
    for step in range(1, 50_001):
        history.add(step, {"loss": 1 / step})
        if step % 100 == 0:
            history.add(step, {"accuracy": step / 50_000})
    history.flush()
    read = read_history(tmp_path)
    assert read["accuracy"].steps == list(range(100, 50_001, 100))
    assert len(read["loss"].steps) <= MAX_POINTS
    assert read["loss"].values[-1] == 1 / 50_000


def test_it_is_written_every_other_second_and_less_often_when_writing_is_slow(tmp_path: Path) -> None:
    clock = FakeClock()
    history = History(tmp_path, clock)
    history.add(1, {"loss": 1.0})
    assert read_history(tmp_path) == {}
    clock.advance(2)
    history.add(2, {"loss": 0.5})
    assert read_history(tmp_path)["loss"].values == [1.0, 0.5]


def test_what_is_no_number_is_told_as_it_is(tmp_path: Path) -> None:
    history = History(tmp_path, FakeClock())
    history.add(1, {"loss": math.nan, "other": math.inf})
    history.flush()
    assert math.isnan(read_history(tmp_path)["loss"].values[0])
    assert read_history(tmp_path)["other"].values == [math.inf]


def test_a_program_that_measures_without_end_is_bounded(tmp_path: Path) -> None:
    history = History(tmp_path, FakeClock())
    for number in range(3 * MAX_METRICS):
        history.add(number, {f"measure-{number}": 1.0})
    assert len(history.series) == MAX_METRICS


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"loss": 3}',
        '{"loss": [[1, 2], [1]]}',
        '{"loss": [["a"], [1]]}',
        json.dumps({"loss": [[1] * 9999] * 2}),
    ],
)
def test_a_file_that_a_program_has_damaged_is_told_as_such(tmp_path: Path, written: str) -> None:
    (tmp_path / FILE).write_text(written)
    with pytest.raises(DataLoss, match="damaged"):
        read_history(tmp_path)
