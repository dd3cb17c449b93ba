"""Requests and answers of inference: named arrays on one side, messages of the Open Inference Protocol on the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import HeadraceError, InvalidArgument
from headrace.inference.oip.v2.inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.inference.tensors import (
    Array,
    datatype_of,
    decode_raw,
    decode_typed,
    encode_raw,
)

SHARED = "shared_memory_region"  # the parameter of a tensor whose elements lie in shared memory


def infer_request(
    model: str,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    version: str = "",
    outputs: Iterable[str] = (),
    request_id: str = "",
) -> ModelInferRequest:
    """Ask for one run of `model`, the arrays in raw contents.

    Raises:
        DtypeMismatch: An array has elements that the protocol cannot carry.
    """
    request = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, values in inputs.items():
        array = np.asarray(values)
        request.inputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(encode_raw(array))
    for name in outputs:
        request.outputs.add(name=name)
    return request


ReadShared = Callable[[ModelInferRequest.InferInputTensor], bytes]


def _refuse_shared(_: ModelInferRequest.InferInputTensor) -> bytes:
    raise InvalidArgument("lies in shared memory, which is not read here; send its contents")


def inputs_of(request: ModelInferRequest, read_shared: ReadShared = _refuse_shared) -> dict[str, Array]:
    """Read the arrays of a request, in raw or typed contents.

    Args:
        read_shared: Fetches the raw contents of an input that lies in shared memory.
    Raises:
        InvalidArgument: Two inputs have one name, or both forms of contents are used, or not one entry for each input;
            or as `decode_raw` and `decode_typed`, with the input's name in front.
    """
    tensors, raw = request.inputs, request.raw_input_contents
    if raw:
        _check_entries(tensors, raw)
    entries = iter(raw)

    def read(_: int, tensor: Any) -> Array:
        if is_shared(tensor):
            return _raw_array(tensor, read_shared(tensor))
        return _raw_array(tensor, next(entries)) if raw else _typed_array(tensor)

    return _arrays(tensors, "inputs", read)


def _check_entries(tensors: Sequence[Any], raw: Sequence[bytes]) -> None:
    shared = 0
    for tensor in tensors:
        shared += is_shared(tensor)
    if len(raw) + shared != len(tensors):
        beside = f", {shared} of them in shared memory" if shared else ""
        raise InvalidArgument(
            f"raw_input_contents has {len(raw)} entries for {len(tensors)} inputs{beside}; "
            "send one for each, or none",
            field="raw_input_contents",
        )


def outputs_of(response: ModelInferResponse) -> dict[str, Array]:
    """Read the arrays of an answer, in raw or typed contents; those in shared memory are left out.

    Raises:
        InvalidArgument: As `inputs_of`: the server does not keep to the protocol.
    """
    tensors, raw = response.outputs, response.raw_output_contents
    if raw and len(raw) != len(tensors):
        raise InvalidArgument(
            f"raw_output_contents has {len(raw)} entries for {len(tensors)} outputs; send one for each, or none",
            field="raw_output_contents",
        )

    def read(position: int, tensor: Any) -> Array | None:
        if is_shared(tensor):
            return None
        return _raw_array(tensor, raw[position]) if raw else _typed_array(tensor)

    return _arrays(tensors, "outputs", read)


def is_shared(tensor: Any) -> bool:
    """Tell whether the elements of a tensor lie in shared memory, or shall be put there."""
    # The first question is the quick one, and its answer is nearly always no.
    return bool(tensor.parameters) and SHARED in tensor.parameters


def _arrays(tensors: Sequence[Any], field: str, read: Callable[[int, Any], Array | None]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for position, tensor in enumerate(tensors):
        name = tensor.name
        if name in arrays:
            raise InvalidArgument(f"{field} has {name!r} twice", field=f"{field}[{position}].name")
        try:
            array = read(position, tensor)
        except HeadraceError as error:
            named = f"{field[:-1]} {name!r}: {error.message}"
            raise type(error)(named, field=f"{field}[{position}]") from None
        if array is not None:
            arrays[name] = array
    return arrays


def _raw_array(tensor: Any, data: bytes) -> Array:
    if tensor.HasField("contents"):
        raise InvalidArgument("has contents beside the raw contents; send one of the two")
    return decode_raw(data, tensor.datatype, tuple(tensor.shape))


def _typed_array(tensor: Any) -> Array:
    return decode_typed(tensor.contents, tensor.datatype, tuple(tensor.shape))
