"""Requests and answers of inference as HTTP carries them: a JSON document, and after it the raw contents of the tensors that want none in JSON.

See Triton's "binary tensor data extension": the header `Inference-Header-Content-Length` says where the document ends.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import HeadraceError, InvalidArgument
from headrace.inference.messages import is_shared, outputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.tensors import Array, contents_field, decode_typed, encode_raw

Document = dict[str, Any]

# Parameters of tensors and requests that are about HTTP alone.
BINARY_SIZE, BINARY, BINARY_DEFAULT = "binary_data_size", "binary_data", "binary_data_output"


@dataclass(frozen=True)
class Ask:
    """A request, and which outputs shall come as raw contents: all others come in JSON."""

    message: pb.ModelInferRequest
    binary: Mapping[str, bool]
    binary_default: bool

    def wants_binary(self, output: str) -> bool:
        """Tell whether an output shall come as raw contents."""
        return self.binary.get(output, self.binary_default)


def parse(body: bytes, document_size: int | None) -> tuple[Document, bytes]:
    """Take a body apart: the document, and the raw contents after it.

    Raises:
        InvalidArgument: The document does not lie within the body, or is no JSON object.
    """
    size = len(body) if document_size is None else document_size
    if not 0 <= size <= len(body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length is {size}, but the body has {len(body)} bytes"
        )
    try:
        text = body[:size] or b"{}"
        document = json.loads(text)
        if b"\\ud" in text or b"\\uD" in text:  # half a character may be escaped, which no field can hold
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument("the body is no JSON object; send one")
    return document, body[size:]


def ask_of(model: str, version: str, body: bytes, document_size: int | None) -> Ask:
    """Read a request of inference.

    Raises:
        InvalidArgument: It is no JSON, a field is of another type than it must be, or the raw contents do not fit the document.
    """
    document, raw = parse(body, document_size)
    message = pb.ModelInferRequest(
        model_name=model, model_version=version, id=_field(document, "id", str, "")
    )
    parameters = _field(document, "parameters", dict, {})
    binary_default = bool(parameters.pop(BINARY_DEFAULT, False))
    _put_parameters(message.parameters, parameters)
    rest = memoryview(raw)
    for tensor in _field(document, "inputs", list, []):
        rest = _put_input(message, tensor, rest)
    if rest:
        raise InvalidArgument(f"the body has {len(rest)} bytes more than its inputs; see {BINARY_SIZE!r}")
    binary = dict(_put_outputs(message, _field(document, "outputs", list, [])))
    return Ask(message, binary, binary_default)


def _put_input(message: pb.ModelInferRequest, document: Any, rest: memoryview) -> memoryview:
    """Add an input; return what is left of the raw contents."""
    name = _field(document, "name", str)
    tensor = message.inputs.add(
        name=name, datatype=_field(document, "datatype", str), shape=_shape(_field(document, "shape", list))
    )
    parameters = _field(document, "parameters", dict, {})
    size = parameters.pop(BINARY_SIZE, None)
    _put_parameters(tensor.parameters, parameters)
    if is_shared(tensor):
        return rest
    if size is None:
        message.raw_input_contents.append(_json_contents(tensor, _field(document, "data", list)))
        return rest
    if not isinstance(size, int) or not 0 <= size <= len(rest):
        raise InvalidArgument(f"input {name!r}: {BINARY_SIZE!r} is {size}, but {len(rest)} bytes are left")
    message.raw_input_contents.append(bytes(rest[:size]))
    return rest[size:]


def _json_contents(tensor: pb.ModelInferRequest.InferInputTensor, data: list[Any]) -> bytes:
    """Return elements that came in JSON, nested by rows or not, as raw contents."""
    contents = pb.InferTensorContents()
    elements = list(_flat(data))
    try:
        if tensor.datatype == "BYTES":
            elements = [element.encode() for element in elements]
        getattr(contents, contents_field(tensor.datatype)).extend(elements)
        return encode_raw(decode_typed(contents, tensor.datatype, tuple(tensor.shape)))
    except HeadraceError as error:
        raise type(error)(f"input {tensor.name!r}: {error.message}") from None
    except (AttributeError, TypeError, ValueError):
        raise InvalidArgument(
            f"input {tensor.name!r}: data holds an element that {tensor.datatype} cannot hold"
        ) from None


def _flat(data: list[Any]) -> Iterator[Any]:
    """Yield elements of nested lists, without recursion: a caller decides how deep they are."""
    stack = [iter(data)]
    while stack:
        element = next(stack[-1], _END)
        if element is _END:
            stack.pop()
        elif isinstance(element, list):
            stack.append(iter(element))
        else:
            yield element


_END = object()


def _put_outputs(message: pb.ModelInferRequest, documents: Sequence[Any]) -> Iterator[tuple[str, bool]]:
    for document in documents:
        output = message.outputs.add(name=_field(document, "name", str))
        parameters = _field(document, "parameters", dict, {})
        if BINARY in parameters:
            yield output.name, bool(parameters.pop(BINARY))
        _put_parameters(output.parameters, parameters)


def _put_parameters(target: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        # bool first: Python's booleans are integers too.
        kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        kind = kinds.get(type(value))
        if kind is None:
            raise InvalidArgument(f"parameter {name!r} is neither a truth value nor a number nor a text")
        try:
            setattr(target[name], kind, value)
        except ValueError:
            raise InvalidArgument(f"parameter {name!r} is {value}, which is too large") from None


def _shape(sizes: list[Any]) -> list[int]:
    for size in sizes:
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise InvalidArgument(f"shape {sizes} holds {size!r}; sizes are whole numbers from 0 on")
    return sizes


_KINDS = {str: "a text", list: "a list", dict: "an object"}
_REQUIRED = object()


def _field(document: Any, name: str, kind: Any, default: Any = _REQUIRED) -> Any:
    if not isinstance(document, dict):
        raise InvalidArgument(f"{document!r} is no JSON object, where one with {name!r} must be")
    value = document.get(name, default)
    if value is _REQUIRED:
        raise InvalidArgument(f"field {name!r} is missing; it must be {_KINDS[kind]}")
    if not isinstance(value, kind):
        raise InvalidArgument(f"field {name!r} is {value!r}; it must be {_KINDS[kind]}")
    return dict(value) if kind is dict else value


def answer_of(ask: Ask, response: pb.ModelInferResponse) -> tuple[bytes, int | None]:
    """Write an answer of inference; return it, and the size of its document if raw contents follow that.

    Raises:
        InvalidArgument: A BYTES output that shall come in JSON holds no UTF-8.
    """
    document: Document = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document["id"] = response.id
    arrays = outputs_of(response)
    outputs, raw = [], []
    for tensor in response.outputs:
        written: Document = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = {name: _parameter(value) for name, value in tensor.parameters.items()}
        if tensor.name in arrays and ask.wants_binary(tensor.name):
            raw.append(encode_raw(arrays[tensor.name]))
            parameters[BINARY_SIZE] = len(raw[-1])
        elif tensor.name in arrays:
            written["data"] = _elements(tensor.name, arrays[tensor.name])
        if parameters:
            written["parameters"] = parameters
        outputs.append(written)
    document["outputs"] = outputs
    text = json.dumps(document).encode()
    return b"".join([text, *raw]), len(text) if raw else None


def _elements(name: str, array: Array) -> list[Any]:
    if not array.dtype.hasobject:
        flat: list[Any] = array.ravel().tolist()
        return flat
    try:
        return [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise InvalidArgument(f"output {name!r} holds no UTF-8; ask for it with {BINARY!r}: true") from None


def _parameter(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
