"""Requests and answers of inference: named arrays on one side, messages of the Open Inference Protocol on the other."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from headrace.errors import InvalidArgument
from headrace.inference.oip.v2.inference_pb2 import ModelInferRequest, ModelInferResponse
from headrace.inference.tensors import (
    Array,
    datatype_of,
    decode_raw,
    decode_typed,
    encode_raw,
    encode_typed,
    has_typed_form,
)


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


def inputs_of(request: ModelInferRequest) -> dict[str, Array]:
    """Read the arrays of a request, in raw or typed contents.

    Raises:
        InvalidArgument: Two inputs have one name, or both forms of contents are used, or not one entry for each input;
            or as `decode_raw` and `decode_typed`, with the input's name in front.
    """
    return _arrays(request.inputs, request.raw_input_contents, "inputs", "raw_input_contents")


def outputs_of(response: ModelInferResponse) -> dict[str, Array]:
    """Read the arrays of an answer, in raw or typed contents.

    Raises:
        InvalidArgument: As `inputs_of`: the server does not keep to the protocol.
    """
    return _arrays(response.outputs, response.raw_output_contents, "outputs", "raw_output_contents")


Tensor = ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor


def _arrays(tensors: Sequence[Tensor], raw: Sequence[bytes], field: str, raw_field: str) -> dict[str, Array]:
    if raw and len(raw) != len(tensors):
        raise InvalidArgument(
            f"{raw_field} has {len(raw)} entries for {len(tensors)} {field}; send one for each, or none",
            field=raw_field,
        )
    arrays: dict[str, Array] = {}
    for position, tensor in enumerate(tensors):
        if tensor.name in arrays:
            raise InvalidArgument(f"{field} has {tensor.name!r} twice", field=f"{field}[{position}].name")
        try:
            arrays[tensor.name] = _array(tensor, raw[position] if raw else None)
        except InvalidArgument as error:
            named = f"{field[:-1]} {tensor.name!r}: {error.message}"
            raise type(error)(named, field=f"{field}[{position}]") from None
    return arrays


def _array(tensor: Tensor, raw: bytes | None) -> Array:
    if raw is None:
        return decode_typed(tensor.contents, tensor.datatype, tensor.shape)
    if tensor.HasField("contents"):
        raise InvalidArgument("has contents beside the raw contents; send one of the two")
    return decode_raw(raw, tensor.datatype, tensor.shape)


def fill_outputs(response: ModelInferResponse, outputs: Mapping[str, Array], *, raw: bool) -> None:
    """Put arrays into an answer.

    Args:
        raw: Whether in raw contents. Datatypes without a typed form (FP16, BF16) make all of them go raw anyway, because
            the protocol has no mixture.
    Raises:
        DtypeMismatch: An array has elements that the protocol cannot carry.
    """
    raw = raw or not all(has_typed_form(datatype_of(array.dtype)) for array in outputs.values())
    for name, array in outputs.items():
        tensor = response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        if raw:
            response.raw_output_contents.append(encode_raw(array))
        else:
            tensor.contents.CopyFrom(encode_typed(array))
