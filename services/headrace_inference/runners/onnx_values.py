"""Between numpy and onnxruntime: datatypes, and the two kinds of elements that they spell differently."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.inference.tensors import Array
from headrace_inference.core.signature import Signature, Tensor

BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

_DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def signature_of(session: ort.InferenceSession) -> Signature:
    """Read what a model takes and gives.

    Raises:
        FailedPrecondition: The protocol cannot carry one of its types.
    """
    return Signature(
        tuple(_tensor("input", node) for node in session.get_inputs()),
        tuple(_tensor("output", node) for node in session.get_outputs()),
    )


def _tensor(kind: str, node: Any) -> Tensor:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise FailedPrecondition(
            f"{kind} {node.name!r} is {node.type}, which the Open Inference Protocol cannot carry; "
            "export the model with plain tensors"
        )
    return Tensor(node.name, datatype, tuple(_axes(node.shape)))


def _axes(shape: Sequence[int | str | None]) -> Iterator[int | str]:
    for axis in shape:
        yield "" if axis is None or axis == -1 else axis


def native(name: str, array: Array) -> Array:
    """Turn bytes into the text that onnxruntime's strings are; other arrays stay as they are.

    Raises:
        InvalidArgument: The bytes are no UTF-8.
    """
    if array.dtype != np.object_:
        return array
    text = np.empty(array.size, np.object_)
    try:
        text[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"input {name!r} holds bytes that are no UTF-8 ({error.reason})") from None
    return text.reshape(array.shape)


def run_with_values(
    session: ort.InferenceSession, outputs: Sequence[str], feed: Mapping[str, Array]
) -> list[Array]:
    """Run with bfloat16 on either side, which onnxruntime does not exchange with numpy by itself."""
    values = {name: _value(array) for name, array in feed.items()}
    return [_array(value) for value in session.run_with_ort_values(list(outputs), values)]


def _value(array: Array) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(array).view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: ort.OrtValue) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(value.shape())
