"""A model in onnxruntime: loaded from bytes, never from a path; run on checked arrays."""

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from headrace.errors import FailedPrecondition, HeadraceError, InvalidArgument, ResourceExhausted
from headrace.inference.tensors import Array
from headrace_inference.core.batching import Arrays
from headrace_inference.core.signature import Signature, Tensor

CPU = "CPUExecutionProvider"
# The level "fatal" of onnxruntime: what it has to say comes as an exception, and goes to the caller.
SILENT = 4
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

# Those of onnxruntime's own have no base class in common; the other two come from its conversions.
_FAILURES: tuple[type[Exception], ...] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Hardware:
    """What sessions run on.

    Args:
        threads: Threads that share the work of one run, >= 1.
        providers: onnxruntime's execution providers, most wanted first.
    """

    threads: int = 1
    providers: tuple[str, ...] = (CPU,)

    def __post_init__(self) -> None:
        """Refuse providers that this build of onnxruntime lacks; it would take another one in silence."""
        available = ort.get_available_providers()
        for provider in self.providers:
            if provider not in available:
                raise FailedPrecondition(
                    f"onnxruntime has no provider {provider!r} here; it has {', '.join(available)}"
                )


class Session:
    """One ONNX model, ready to run; thread-safe.

    Raises:
        FailedPrecondition: The bytes are no ONNX model, or one that cannot be served.
    """

    def __init__(self, data: bytes, hardware: Hardware) -> None:
        try:
            self._session = ort.InferenceSession(data, _options(hardware), providers=list(hardware.providers))
        except _FAILURES as error:
            raise _unloadable(error) from error
        self._refuse_missing_providers(hardware)
        self.signature = Signature(
            tuple(_tensor("input", node) for node in self._session.get_inputs()),
            tuple(_tensor("output", node) for node in self._session.get_outputs()),
        )
        tensors = (*self.signature.inputs, *self.signature.outputs)
        self._has_bf16 = any(tensor.datatype == "BF16" for tensor in tensors)

    def _refuse_missing_providers(self, hardware: Hardware) -> None:
        running = self._session.get_providers()
        for provider in hardware.providers:
            if provider not in running:
                raise FailedPrecondition(
                    f"{provider} does not start on this machine; install what it needs, or leave it out of PROVIDERS"
                )

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs.

        Args:
            inputs: Checked against the signature.
        Raises:
            InvalidArgument: The model cannot run these values.
            ResourceExhausted: There is not enough memory.
        """
        feed = {name: _native(name, array) for name, array in inputs.items()}
        run = self._run_bf16 if self._has_bf16 else self._session.run
        try:
            arrays = run(list(outputs), feed)
        except _FAILURES as error:
            raise _unrunnable(error) from error
        return {name: np.asarray(array) for name, array in zip(outputs, arrays, strict=True)}

    def _run_bf16(self, outputs: list[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run with bfloat16 on either side, which onnxruntime does not exchange with numpy by itself."""
        values = {name: _value(array) for name, array in feed.items()}
        return [_array(value) for value in self._session.run_with_ort_values(outputs, values)]


def _options(hardware: Hardware) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = hardware.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    # Idle threads sleep: spinning ones would take the processor from the threads that speak gRPC.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A model may name files for its weights. It shall find none: this is no folder.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


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


def _native(name: str, array: Array) -> Array:
    """Turn bytes into the text that onnxruntime's strings are."""
    if array.dtype != np.object_:
        return array
    text = np.empty(array.size, np.object_)
    try:
        text[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"input {name!r} holds bytes that are no UTF-8 ({error.reason})") from None
    return text.reshape(array.shape)


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


def _unloadable(error: Exception) -> HeadraceError:
    text = _said(error)
    if "External data" in text or "model_path" in text:
        return FailedPrecondition("the model keeps weights in other files; save it with its weights inside")
    return FailedPrecondition(f"onnxruntime cannot load the model: {text}")


def _unrunnable(error: Exception) -> HeadraceError:
    text = _said(error)
    if "allocate memory" in text or "bad_alloc" in text:
        return ResourceExhausted("not enough memory for this request; send fewer rows at a time")
    return InvalidArgument(f"the model cannot run these inputs: {text}")


def _said(error: Exception) -> str:
    """Return the part of onnxruntime's text that is about the model, not about its own sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].rpartition("Status Message: ")[2].rpartition(" : ")[2]
    return re.sub(r"/\S+:\d+ ", "", text)[-300:]
