"""Some values now, the others later: nothing is lost, nothing counts twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.errors import NonFiniteValues, ShapeMismatch
from headrace.parameters.filters import sparse
from headrace.parameters.filters.residual import Residual
from headrace.parameters.filters.selection import Select, largest, significant
from headrace.parameters.layout import Floats

SIZE = 70_000  # more than one run of places
ELEMENTS = st.floats(-(2.0**100), 2.0**100, width=32)
GRADIENTS = arrays.arrays(np.float32, 40, elements=ELEMENTS)
SELECTIONS = {
    "half": largest(0.5),
    "one": largest(0.001),
    "all": largest(1.0),
    "significant": significant(1.0),
    "everything": significant(0.0),
}


def normal(seed: int, size: int = SIZE) -> Floats:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@given(st.sets(st.integers(0, SIZE - 1), max_size=50), st.integers(0, 9))
def test_sparse_values_come_back_at_their_places(chosen: set[int], seed: int) -> None:
    places = np.array(sorted(chosen), np.int64)
    values, out = normal(seed)[places], normal(seed + 1)

    data = sparse.encode(places, values, SIZE)
    sparse.decode(data.tobytes(), out)

    expected = np.zeros(SIZE, np.float32)
    expected[places] = values
    assert np.array_equal(out, expected)
    assert data.nbytes == sparse.encoded_size(SIZE, len(chosen)) == 8 + 6 * len(chosen)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    out = np.zeros(9, np.float32)

    try:
        sparse.decode(data, out)
    except ShapeMismatch:
        return
    assert sparse.encoded_size(9, (len(data) - 4) // 6) == len(data)


@pytest.mark.parametrize("places", [[3, 3], [4, 2], [9]])
def test_places_out_of_order_or_of_range_are_refused(places: list[int]) -> None:
    data = sparse.encode(np.array(places), np.ones(len(places), np.float32), 9)

    with pytest.raises(ShapeMismatch, match="at ascending places below 9, each once"):
        sparse.decode(data.tobytes(), np.empty(9, np.float32))


@pytest.mark.parametrize("density", [0.0001, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("shape", ["normal", "all equal", "sorted", "zeros", "waves"])
def test_the_largest_values_are_selected_exactly(density: float, shape: str) -> None:
    """Whatever a sample of them looks like."""
    values = {
        "normal": normal(0),
        "all equal": np.full(SIZE, -2, np.float32),
        "sorted": np.sort(normal(0)),
        "zeros": np.zeros(SIZE, np.float32),
        "waves": np.where(np.arange(SIZE) % 4 == 0, 1e-6, normal(1)).astype(np.float32),
    }[shape]

    places = largest(density)(values)

    wanted = int(np.ceil(density * SIZE))
    assert len(set(places.tolist())) == places.size == wanted
    expected = np.sort(np.abs(values))[SIZE - wanted :]
    assert np.array_equal(np.sort(np.abs(values[places])), expected)


def test_what_is_as_large_as_the_root_mean_square_is_significant() -> None:
    values = np.array([3, -4, 0.1, 0, 0], np.float32)  # root mean square 2.24

    assert significant(1.0)(values).tolist() == [0, 1]
    assert significant(1.5)(values).tolist() == [1]
    assert significant(5.0)(values).tolist() == []
    assert significant(1.0)(np.zeros(3, np.float32)).tolist() == []
    assert significant(1.0)(np.array([1e30, 1], np.float32)).tolist() == [0]


@pytest.mark.parametrize("name", SELECTIONS)
@given(gradients=st.lists(GRADIENTS, min_size=1, max_size=6))
def test_what_is_sent_and_what_is_kept_add_up_to_the_last_bit(name: str, gradients: list[Floats]) -> None:
    residual = Residual(SELECTIONS[name], 40)
    for gradient in gradients:
        with np.errstate(over="ignore"):
            expected = gradient + residual.values

        places, values = residual.choose(gradient)
        residual.sent()

        both = residual.values.copy()
        assert not both[places].any()
        both[places] = values
        assert np.array_equal(both, expected)


def test_what_did_not_arrive_changes_nothing() -> None:
    residual = Residual(largest(0.1), SIZE)
    residual.choose(normal(0))
    residual.sent()
    before = residual.values.copy()

    first = residual.choose(normal(1))
    again = residual.choose(normal(1))

    assert np.array_equal(residual.values, before)
    assert [part.tolist() for part in first] == [part.tolist() for part in again]


@pytest.mark.parametrize("select", [largest(0.01), significant(1.0)], ids=["top-k", "significance"])
def test_everything_is_sent_sooner_or_later(select: Select) -> None:
    """A value that is small in every step grows in what is kept until its turn comes."""
    residual, total, sent = Residual(select, 200), np.zeros(200), np.zeros(200)
    gradient = np.linspace(0.1, 2, 200, dtype=np.float32)
    for _ in range(2000):
        places, values = residual.choose(gradient)
        residual.sent()
        sent[places] += values
        total += gradient

    assert sent.all()
    np.testing.assert_allclose(sent + residual.values, total, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_not_kept(bad: float) -> None:
    residual = Residual(significant(1.0), 4)
    gradient = np.array([1, bad, 0, 0], np.float32)

    with pytest.raises(NonFiniteValues, match="at offset 1 of the shard; nothing was sent"):
        residual.choose(gradient)

    assert not residual.values.any()
    assert residual.choose(np.ones(4, np.float32))[1].tolist() == [1, 1, 1, 1]
