"""The first values of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.parameters.keys import Keys
from headrace_optimizers.row_initializer import Constant, Initializer, Normal, Uniform, first_rows

KEYS: Keys = np.arange(20_000, dtype=np.uint64) * np.uint64(977)
EACH = pytest.mark.parametrize(
    "initializer", [Constant(0.25), Uniform(-0.5, 2.0, seed=3), Normal(1.0, 0.5, seed=3)]
)


@EACH
@given(order=st.permutations(range(40)), cut=st.integers(0, 40), dim=st.integers(1, 9))
def test_a_row_does_not_depend_on_which_other_rows_are_made_with_it(
    initializer: Initializer, order: list[int], cut: int, dim: int
) -> None:
    keys = KEYS[:40]
    together = first_rows(initializer, "users", keys, dim)

    parts = [first_rows(initializer, "users", keys[part], dim) for part in (order[:cut], order[cut:])]

    assert np.array_equal(np.concatenate(parts), together[order])


@EACH
def test_many_rows_are_the_same_as_each_by_itself(initializer: Initializer) -> None:
    rows = first_rows(initializer, "users", KEYS[:700], 5)

    for place in (0, 255, 256, 699):
        assert np.array_equal(first_rows(initializer, "users", KEYS[place : place + 1], 5)[0], rows[place])


def test_uniform_values_are_spread_evenly_over_their_bounds() -> None:
    rows = first_rows(Uniform(-0.5, 2.0), "users", KEYS, 8)

    assert rows.min() >= -0.5
    assert rows.max() <= 2.0
    counts, _ = np.histogram(rows, bins=10, range=(-0.5, 2.0))
    assert np.abs(counts / rows.size - 0.1).max() < 0.003  # 4 standard deviations


def test_normal_values_have_the_moments_they_should() -> None:
    rows = first_rows(Normal(1.0, 0.5), "users", KEYS, 9).astype(np.float64)
    standard = (rows - 1.0) / 0.5

    assert abs(standard.mean()) < 0.01
    assert abs(standard.std() - 1) < 0.01
    assert abs((standard**3).mean()) < 0.03
    assert abs((standard**4).mean() - 3) < 0.08
    assert np.abs(np.corrcoef(standard.T) - np.eye(9)).max() < 0.03


def test_tables_with_the_same_seed_and_seeds_of_the_same_table_differ() -> None:
    users = first_rows(Uniform(0, 1), "users", KEYS[:9], 4)

    assert not np.isclose(users, first_rows(Uniform(0, 1), "items", KEYS[:9], 4)).any()
    assert not np.isclose(users, first_rows(Uniform(0, 1, seed=1), "users", KEYS[:9], 4)).any()


def test_the_values_of_a_seed_never_change_from_one_release_to_the_next() -> None:
    keys = np.array([0, 1, (1 << 64) - 1], np.uint64)

    assert first_rows(Uniform(0, 1, seed=7), "users", keys, 1).ravel() == pytest.approx(
        [0.4882879, 0.9754111, 0.7073408], abs=1e-6
    )
    assert first_rows(Normal(0, 1, seed=7), "users", keys, 1).ravel() == pytest.approx(
        [0.1143771, 0.8389001, -0.6853202], abs=1e-6
    )


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Constant(float("nan")), "constant.value"),
        (lambda: Uniform(1.0, 1.0), "uniform.high"),
        (lambda: Uniform(float("-inf"), 1.0), "uniform.low"),
        (lambda: Normal(0.0, 0.0), "normal.deviation"),
    ],
)
def test_settings_that_make_no_values_are_refused(make: object, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        make()  # type: ignore[operator]  # a lambda
