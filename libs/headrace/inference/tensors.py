"""Arrays to and from the tensors of the Open Inference Protocol, in both of its encodings.

    raw     one `bytes` per tensor: elements little-endian, row-major; BYTES elements each after their length (4 bytes)
    typed   `InferTensorContents`: a repeated field per family of datatypes; FP16 and BF16 have none and must go raw

BYTES are arrays of dtype object holding `bytes`; BF16 are arrays of `ml_dtypes.bfloat16`, the type that numpy lacks.
"""

import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from headrace.errors import DtypeMismatch, InvalidArgument, ShapeMismatch
from headrace.inference.oip.v2.inference_pb2 import InferTensorContents

Array: TypeAlias = npt.NDArray[Any]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
DATATYPES = tuple(_DTYPES)

_DATATYPES: Mapping[np.dtype[Any], str] = {dtype: datatype for datatype, dtype in _DTYPES.items()}

_LITTLE_ENDIAN = sys.byteorder == "little"  # then raw contents are what numpy has in memory

_FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Find the numpy type of a datatype: "FP32" -> float32, "BYTES" -> object.

    Raises:
        DtypeMismatch: The protocol has no such datatype.
    """
    try:
        return _DTYPES[datatype]
    except KeyError:
        raise DtypeMismatch(f"datatype {datatype!r} is none of {', '.join(DATATYPES)}") from None


def datatype_of(dtype: npt.DTypeLike) -> str:
    """Name the datatype of a numpy type: float32 -> "FP32"; object, str and bytes -> "BYTES".

    Raises:
        DtypeMismatch: The protocol cannot carry such elements.
    """
    dtype = np.dtype(dtype)
    if dtype in _DATATYPES:
        return _DATATYPES[dtype]
    datatype = _DATATYPES.get(dtype.newbyteorder("="))
    if dtype.kind in "SU":
        return "BYTES"
    if datatype is None:
        raise DtypeMismatch(f"dtype {dtype} has no datatype; convert to one of {', '.join(DATATYPES)}")
    return datatype


def has_typed_form(datatype: str) -> bool:
    """Tell whether `InferTensorContents` has a field for it."""
    return datatype in _FIELDS


def encode_raw(array: Array) -> bytes:
    """Write the elements of `array` as they stand in `raw_input_contents` and `raw_output_contents`.

    Raises:
        DtypeMismatch: The protocol cannot carry such elements.
    """
    if datatype_of(array.dtype) == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in _elements(array))
    little: Array = (
        array if _LITTLE_ENDIAN and array.dtype.isnative else array.astype(array.dtype.newbyteorder("<"))
    )
    return little.tobytes()


def raw_view(array: Array) -> memoryview:
    """Return what `encode_raw` does as bytes to read once: without a copy, where memory holds the elements as the wire does.

    Raises:
        DtypeMismatch: As `encode_raw`.
    """
    if array.dtype.hasobject or not (array.flags.c_contiguous and array.dtype.isnative and _LITTLE_ENDIAN):
        return memoryview(encode_raw(array))
    return array.reshape(-1).view(np.uint8).data


def decode_raw(data: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Read an array of `shape` from raw contents.

    Returns:
        A read-only view of `data`, except for BOOL and BYTES.
    Raises:
        DtypeMismatch: The protocol has no such datatype.
        ShapeMismatch: `data` holds more or fewer elements than `shape`.
        InvalidArgument: A dimension is negative, or BYTES are cut off in the middle of an element.
    """
    dtype, count = dtype_of(datatype), count_elements(shape)
    if dtype.hasobject:
        return _object_array(_split(data), shape)
    if len(data) != count * dtype.itemsize:
        raise ShapeMismatch(
            f"{len(data)} bytes of contents, but {datatype} of shape {list(shape)} has {count * dtype.itemsize}"
        )
    array: Array
    if dtype == np.bool_:  # any byte but zero is true; numpy would keep the 2 in a bool
        array = np.frombuffer(data, np.uint8) != 0
    elif _LITTLE_ENDIAN:
        array = np.frombuffer(data, dtype)
    else:
        array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    return _shaped(array, shape)


def encode_typed(array: Array) -> InferTensorContents:
    """Write the elements of `array` into the field of its datatype.

    Raises:
        DtypeMismatch: The protocol cannot carry such elements, or (FP16, BF16) not in this form.
    """
    datatype = datatype_of(array.dtype)
    contents = InferTensorContents()
    elements = _elements(array) if datatype == "BYTES" else array.ravel().tolist()
    getattr(contents, contents_field(datatype)).extend(elements)
    return contents


def decode_typed(contents: InferTensorContents, datatype: str, shape: Sequence[int]) -> Array:
    """Read an array of `shape` from typed contents.

    Raises:
        DtypeMismatch: The protocol has no such datatype, no typed form of it, or another field is filled than its own.
        ShapeMismatch: There are more or fewer elements than `shape` has.
        InvalidArgument: A dimension is negative, or an element is too large for the datatype.
    """
    dtype, name, count = dtype_of(datatype), contents_field(datatype), count_elements(shape)
    strangers = [field.name for field, _ in contents.ListFields() if field.name != name]
    if strangers:
        raise DtypeMismatch(
            f"contents.{strangers[0]} is set; elements of {datatype} belong in contents.{name}"
        )
    elements = getattr(contents, name)
    if datatype == "BYTES":
        return _object_array(elements, shape)
    if len(elements) != count:
        raise ShapeMismatch(f"{len(elements)} elements, but shape {list(shape)} has {count}")
    try:
        # Of a list: of the field itself, numpy would wrap what is too large.
        array: Array = np.array(list(elements), dtype)
    except OverflowError:
        raise InvalidArgument(f"contents.{name} holds an element that {datatype} cannot hold") from None
    return _shaped(array, shape)


def count_elements(shape: Sequence[int]) -> int:
    """Multiply the dimensions of a tensor.

    Raises:
        InvalidArgument: A dimension is negative.
    """
    if shape and min(shape) < 0:
        raise InvalidArgument(
            f"shape {list(shape)} has a negative dimension; send the sizes of this very tensor"
        )
    return math.prod(shape)


def contents_field(datatype: str) -> str:
    """Name the field of `InferTensorContents` that holds elements of a datatype.

    Raises:
        DtypeMismatch: The protocol has no such datatype, or (FP16, BF16) no typed form of it.
    """
    dtype_of(datatype)
    if not has_typed_form(datatype):
        raise DtypeMismatch(f"{datatype} has no typed contents in the protocol; send raw contents")
    return _FIELDS[datatype]


def _elements(array: Array) -> Iterable[bytes]:
    """Yield the elements of a BYTES array, row-major; text is encoded as UTF-8."""
    for element in array.ravel():
        if isinstance(element, str):
            yield element.encode()
        elif isinstance(element, bytes):
            yield element
        else:
            raise DtypeMismatch(
                f"a BYTES array holds {type(element).__name__}; its elements must be bytes or str"
            )


def _split(data: bytes) -> list[bytes]:
    """Take apart elements that each stand after their length."""
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        begin = position + 4
        length = int.from_bytes(data[position:begin], "little")
        position = begin + length
        if position > len(data):
            raise InvalidArgument(
                f"BYTES contents end within element {len(elements)}, after {len(data)} bytes"
            )
        elements.append(data[begin:position])
    return elements


def _object_array(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    if len(elements) != count_elements(shape):
        raise ShapeMismatch(
            f"{len(elements)} BYTES elements, but shape {list(shape)} has {count_elements(shape)}"
        )
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return _shaped(array, shape)


def _shaped(array: Array, shape: Sequence[int]) -> Array:
    """Give `array` a shape of as many elements."""
    try:
        return array.reshape(shape)
    except ValueError as error:  # more axes than numpy has, or an empty tensor with astronomic sizes
        raise InvalidArgument(f"a tensor cannot have {len(shape)} axes of these sizes: {error}") from None
