from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from headrace import tensors
from headrace.errors import DtypeMismatch, InvalidArgument, NonFiniteValues, ShapeMismatch

Array = NDArray[Any]
arrays = hnp.arrays(
    st.sampled_from(sorted(tensors.DTYPES)).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(arrays)
def test_an_array_reads_back_as_it_was_written(array: Array) -> None:
    back = tensors.from_bytes(tensors.to_bytes(array), array.dtype.name, array.shape)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


@given(arrays, st.integers(1, 40), st.randoms())
def test_chunks_in_any_order_make_the_array_again(array: Array, size: int, random: Random) -> None:
    chunks = list(tensors.chunks(array, size))
    assert all(len(chunk) <= size for _, chunk in chunks)
    random.shuffle(chunks)
    assembly = tensors.Assembly(array.dtype.name, array.shape)
    for offset, chunk in chunks:
        assembly.add(offset, chunk)
    np.testing.assert_array_equal(assembly.array(), array)


def test_bytes_share_the_memory_of_a_plain_array() -> None:
    array = np.zeros(4, np.float32)
    view = tensors.to_bytes(array)
    array[0] = 1
    assert bytes(view[:4]) == np.float32(1).tobytes()
    data = bytes(view)
    assert np.shares_memory(tensors.from_bytes(data, "float32", (2, 2)), np.frombuffer(data, np.uint8))


def test_strided_and_big_endian_arrays_are_put_in_order() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert bytes(tensors.to_bytes(array)) == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()


def test_a_wrong_number_of_bytes_is_a_shape_mismatch() -> None:
    with pytest.raises(ShapeMismatch, match=r"gradients has 7 bytes; float32 of shape \[2\] takes 8"):
        tensors.from_bytes(b"1234567", "float32", (2,), field="gradients")
    with pytest.raises(ShapeMismatch, match="negative"):
        tensors.from_bytes(b"", "float32", (-1, 0))


@pytest.mark.parametrize("dtype", ["object", "float128", "O", "", "complex64", "<f4", "V8"])
def test_only_known_element_types_are_read(dtype: str) -> None:
    with pytest.raises(DtypeMismatch, match="is not one of"):
        tensors.from_bytes(b"", dtype, (0,))


def test_objects_are_not_written() -> None:
    with pytest.raises(DtypeMismatch):
        tensors.to_bytes(np.array([object()]))


def test_values_that_are_no_numbers_are_found() -> None:
    array = np.ones((2, 3), np.float32)
    tensors.check_finite(array)
    tensors.check_finite(np.ones(3, np.int8))
    array[1, 0] = np.nan
    array[1, 2] = -np.inf
    with pytest.raises(
        NonFiniteValues, match="grad holds 2 NaN or infinite values, the first at element 3 of 6"
    ):
        tensors.check_finite(array, field="grad")


def test_chunks_beyond_the_array_or_twice_are_refused() -> None:
    assembly = tensors.Assembly("uint8", (8,))
    assembly.add(4, b"abcd")
    for offset, data in ((-1, b"x"), (8, b"x"), (7, b"xy"), (4, b"x"), (0, b"12345678")):
        with pytest.raises(InvalidArgument):
            assembly.add(offset, data)
    assert assembly.missing_bytes == 4
    with pytest.raises(ShapeMismatch, match="4 of 8 bytes are missing"):
        assembly.array()
    assembly.add(0, b"1234")
    assert assembly.array().tobytes() == b"1234abcd"
