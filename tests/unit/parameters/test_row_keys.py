"""Which shard a row lives on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DtypeMismatch, InvalidArgument, ShapeMismatch
from headrace.parameters.keys import ARCS, arc_of, arc_owners, as_keys, mix

MASK = (1 << 64) - 1


def splitmix64(key: int) -> int:
    """The reference, one key at a time."""
    z = (key + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.lists(st.integers(0, MASK), min_size=1))
def test_keys_are_mixed_as_splitmix64_does(keys: list[int]) -> None:
    assert mix(np.array(keys, np.uint64)).tolist() == [splitmix64(key) for key in keys]


def test_the_first_numbers_of_splitmix64_are_those_of_its_reference_code() -> None:
    assert mix(np.array([0], np.uint64)).tolist() == [0xE220A8397B1DCDAF]


@given(st.integers(1, 64))
def test_shards_have_equally_many_arcs(shards: int) -> None:
    sizes = np.bincount(arc_owners(shards), minlength=shards)

    assert sizes.sum() == ARCS
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(1, 40))
def test_one_shard_more_takes_arcs_and_moves_no_others(shards: int) -> None:
    before, after = arc_owners(shards), arc_owners(shards + 1)

    assert set(after[before != after].tolist()) == {shards}


def test_consecutive_keys_are_spread_evenly() -> None:
    sizes = np.bincount(arc_owners(4)[arc_of(np.arange(100_000, dtype=np.uint64))])

    assert sizes.min() > 24_000


def test_the_shard_of_a_key_never_changes_from_one_release_to_the_next() -> None:
    keys = np.array([0, 1, 2, 3, 1 << 32, MASK], np.uint64)

    assert arc_owners(5)[arc_of(keys)].tolist() == [4, 1, 1, 0, 3, 4]


def test_negative_integers_are_keys_too() -> None:
    assert as_keys([-1, 5]).tolist() == [MASK, 5]
    assert as_keys(np.array([7], np.int32)).tolist() == [7]
    assert as_keys([-1, 1 << 63]).tolist() == [MASK, 1 << 63]
    assert as_keys([]).dtype == np.uint64


def test_what_is_no_list_of_integers_is_no_list_of_keys() -> None:
    with pytest.raises(DtypeMismatch, match="float64"):
        as_keys([1.5])
    with pytest.raises(ShapeMismatch, match="one dimension"):
        as_keys([[1, 2]])


@pytest.mark.parametrize("shards", [0, ARCS + 1])
def test_a_number_of_shards_that_cannot_be_is_refused(shards: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 4096"):
        arc_owners(shards)
