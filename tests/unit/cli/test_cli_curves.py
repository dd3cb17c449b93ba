"""Curves for people: a table, characters, a picture."""

import math
from pathlib import Path

import pytest

from headrace.cli.views.curves import chosen, curves_data, curves_table, drawn
from headrace.cli.views.picture import write_png
from headrace.client.curves import Curve
from headrace.errors import NotFound

FALLING = Curve([1, 2, 3, 4], [4.0, 3.0, math.nan, 1.0])


def test_a_table_has_a_row_for_each_measure() -> None:
    (row,) = curves_table({"loss": FALLING}).rows
    assert row == ["loss", "4", "4", "1", "4", "1", "4"]


def test_a_drawing_fits_the_width_and_falls_from_left_to_right() -> None:
    lines = drawn({"loss": FALLING}, 60)
    assert all(len(line) <= 60 for line in lines)
    assert lines[0] == "loss"
    assert lines[1].lstrip().startswith("4 ┤")
    assert lines[1][13] != " ", "the first value is the greatest, at the top left"
    assert lines[12][-1] != " "
    assert len(lines[12]) == 60, "the last value is the least, at the bottom right"
    assert lines[13].split() == ["1", "step", "4"]


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0], [-1e300, 1e300], [0.0, math.inf]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    assert drawn({"x": Curve(list(range(len(values))), values)}, 80)


def test_a_measure_without_a_finite_value_says_so() -> None:
    assert drawn({"loss": Curve([1], [math.nan])}, 80) == ["loss: no finite value yet", ""]


def test_json_has_null_for_what_is_no_number() -> None:
    assert curves_data({"loss": FALLING}) == {
        "loss": {"steps": [1, 2, 3, 4], "values": [4.0, 3.0, None, 1.0]}
    }


def test_a_measure_that_is_not_there_is_named_with_those_that_are() -> None:
    assert list(chosen({"loss": FALLING, "accuracy": FALLING}, [])) == ["accuracy", "loss"]
    with pytest.raises(NotFound, match="has not measured 'lose', but loss"):
        chosen({"loss": FALLING}, ["lose"])


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    write_png({"loss": FALLING, "accuracy": FALLING}, tmp_path / "curves.png", title="train-1")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")
