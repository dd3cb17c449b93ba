"""Arrays survive both encodings of the Open Inference Protocol, and what does not fit is refused by name."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.errors import DtypeMismatch, HeadraceError, InvalidArgument, ShapeMismatch
from headrace.inference.oip.v2.inference_pb2 import InferTensorContents
from headrace.inference.tensors import (
    DATATYPES,
    Array,
    datatype_of,
    decode_raw,
    decode_typed,
    dtype_of,
    encode_raw,
    encode_typed,
    has_typed_form,
)

FIXED = [datatype for datatype in DATATYPES if datatype != "BYTES"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def bit_patterns(datatype: str) -> st.SearchStrategy[Array]:
    """Arrays of any bits, NaNs of every kind included; of BOOL, the two that are valid."""
    dtype = dtype_of(datatype)
    high = 1 if datatype == "BOOL" else 255
    unsigned = arrays.arrays(
        np.uint8, SHAPES.map(lambda s: (*s, dtype.itemsize)), elements=st.integers(0, high)
    )
    return unsigned.map(lambda array: array.view(dtype).reshape(array.shape[:-1]))


def bytes_arrays() -> st.SearchStrategy[Array]:
    return arrays.arrays(np.object_, SHAPES, elements=st.binary(max_size=6))


def same(one: Array, other: Array) -> bool:
    """Equal to the last bit; `==` would stumble over NaN."""
    if one.dtype == np.object_:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_one_dtype_and_back(datatype: str) -> None:
    assert datatype_of(dtype_of(datatype)) == datatype


@pytest.mark.parametrize("datatype", FIXED)
@given(data=st.data())
def test_raw_contents_keep_every_bit(datatype: str, data: st.DataObject) -> None:
    array = data.draw(bit_patterns(datatype))
    assert same(decode_raw(encode_raw(array), datatype, array.shape), array)


@given(array=bytes_arrays())
def test_raw_contents_keep_bytes(array: Array) -> None:
    assert same(decode_raw(encode_raw(array), "BYTES", array.shape), array)


@pytest.mark.parametrize("datatype", [datatype for datatype in FIXED if has_typed_form(datatype)])
@given(data=st.data())
def test_typed_contents_keep_every_value(datatype: str, data: st.DataObject) -> None:
    """The payload of a NaN may change: it passes through a Python float."""
    array = data.draw(bit_patterns(datatype))
    decoded = decode_typed(encode_typed(array), datatype, array.shape)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


@given(array=bytes_arrays())
def test_typed_contents_keep_bytes(array: Array) -> None:
    assert same(decode_typed(encode_typed(array), "BYTES", array.shape), array)


def test_raw_contents_are_little_endian_and_row_major() -> None:
    big_and_transposed = np.array([[1, 3], [2, 4]], ">i2").T
    assert encode_raw(big_and_transposed) == bytes([1, 0, 2, 0, 3, 0, 4, 0])


def test_bytes_elements_stand_after_their_length() -> None:
    assert encode_raw(np.array(["é", b"\0"], np.object_)) == b"\x02\0\0\0\xc3\xa9" + b"\x01\0\0\0\0"


@pytest.mark.parametrize("array", [np.array(["ab", "c"]), np.array([b"ab", b"c"])], ids=["str", "bytes"])
def test_text_and_bytes_arrays_are_bytes(array: Array) -> None:
    assert decode_raw(encode_raw(array), "BYTES", [2]).tolist() == [b"ab", b"c"]


def test_a_raw_byte_other_than_zero_and_one_is_true() -> None:
    assert decode_raw(b"\0\1\2", "BOOL", [3]).tolist() == [False, True, True]


def test_bfloat16_is_the_type_of_ml_dtypes() -> None:
    array = np.array([1.0, -2.5], ml_dtypes.bfloat16)
    assert encode_raw(array) == bytes.fromhex("803f20c0")
    assert decode_raw(encode_raw(array), "BF16", [2]).astype(np.float32).tolist() == [1.0, -2.5]


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "error", "message"),
    [
        (b"1234", "FP31", [1], DtypeMismatch, "datatype 'FP31' is none of BOOL, UINT8"),
        (b"1234", "FP32", [2], ShapeMismatch, "4 bytes of contents, but FP32 of shape [2] has 8"),
        (b"1234", "FP32", [-1], InvalidArgument, "shape [-1] has a negative dimension"),
        (b"\1\0\0\0a", "BYTES", [2], ShapeMismatch, "1 BYTES elements, but shape [2] has 2"),
        (b"\1\0\0\0a\5\0\0\0b", "BYTES", [2], InvalidArgument, "end within element 1, after 10 bytes"),
        (b"\0" * 4, "FP32", [1] * 65, InvalidArgument, "a tensor cannot have 65 axes"),
        (b"", "FP32", [0, 1 << 62, 1 << 62], InvalidArgument, "a tensor cannot have 3 axes of these sizes"),
        (b"\1\0\0", "BYTES", [1], InvalidArgument, "end within element 0, after 3 bytes"),
    ],
)
def test_raw_contents_that_do_not_fit_are_refused(
    data: bytes, datatype: str, shape: list[int], error: type[HeadraceError], message: str
) -> None:
    with pytest.raises(error) as raised:
        decode_raw(data, datatype, shape)
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("contents", "datatype", "shape", "error", "message"),
    [
        (InferTensorContents(fp32_contents=[1]), "FP64", [1], DtypeMismatch, "fp32_contents is set"),
        (
            InferTensorContents(int_contents=[1]),
            "INT32",
            [2],
            ShapeMismatch,
            "1 elements, but shape [2] has 2",
        ),
        (InferTensorContents(int_contents=[128]), "INT8", [1], InvalidArgument, "INT8 cannot hold"),
        (InferTensorContents(uint_contents=[256]), "UINT8", [1], InvalidArgument, "UINT8 cannot hold"),
        (InferTensorContents(), "FP16", [0], DtypeMismatch, "FP16 has no typed contents"),
        (InferTensorContents(), "INT64", [1], ShapeMismatch, "0 elements, but shape [1] has 1"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(
    contents: InferTensorContents, datatype: str, shape: list[int], error: type[HeadraceError], message: str
) -> None:
    with pytest.raises(error) as raised:
        decode_typed(contents, datatype, shape)
    assert message in raised.value.message


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]", [("a", np.int8)]], ids=str)
def test_a_dtype_that_the_protocol_lacks_is_refused(dtype: Any) -> None:
    with pytest.raises(DtypeMismatch, match="has no datatype; convert to one of BOOL"):
        encode_raw(np.zeros(1, dtype))


def test_an_object_that_is_no_bytes_is_refused() -> None:
    with pytest.raises(DtypeMismatch, match="holds int; its elements must be bytes or str"):
        encode_raw(np.array([1], np.object_))
