"""Wished outputs, and the answers that carry them: in raw or typed contents, in shared memory, as classes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import InvalidArgument
from headrace.inference.messages import SHARED, is_shared
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.tensors import Array, datatype_of, encode_raw, encode_typed, has_typed_form, raw_view
from headrace_inference.core.classification import classify
from headrace_inference.shared_memory import Region
from headrace_inference.wire.parameters import integer, place_of

CLASSIFICATION = "classification"


@dataclass(frozen=True)
class SharedPlace:
    """Where in an open region an output goes; `size_bytes` is the most it may have."""

    region: Region
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Wish:
    """One wished output.

    Args:
        classes: How many of the best classes of each row are wished instead of all scores; 0: all scores.
        place: Where in shared memory it goes; None: into the answer.
    """

    name: str
    classes: int = 0
    place: SharedPlace | None = None


def wishes_of(
    outputs: Iterable[pb.ModelInferRequest.InferRequestedOutputTensor], find_region: Callable[[str], Region]
) -> list[Wish]:
    """Read the wished outputs of a request; none means all.

    Raises:
        NotFound: One shall go into a region that is not registered.
        InvalidArgument: A parameter of one cannot be right, or contradicts another one.
    """
    return [_wish(output, find_region) if output.parameters else Wish(output.name) for output in outputs]


def _wish(
    output: pb.ModelInferRequest.InferRequestedOutputTensor, find_region: Callable[[str], Region]
) -> Wish:
    classes = integer(output.parameters, CLASSIFICATION)
    if not is_shared(output):
        return Wish(output.name, classes)
    if CLASSIFICATION in output.parameters:
        raise InvalidArgument(
            f"output {output.name!r} has both {CLASSIFICATION!r} and {SHARED!r}; leave one out",
            field="outputs",
        )
    place = place_of(output.parameters)
    region = find_region(place.region)
    region.check(place.offset, place.size_bytes)
    return Wish(output.name, place=SharedPlace(region, place.offset, place.size_bytes))


def fill_response(
    response: pb.ModelInferResponse,
    outputs: Mapping[str, Array],
    wishes: Sequence[Wish],
    *,
    raw: bool,
    batched: bool,
    labels: Mapping[str, Sequence[str]],
) -> None:
    """Put the outputs where they are wished.

    Args:
        raw: Whether raw contents are wished; typed ones are given only if all outputs have such a form.
        batched: Whether the first axis of an output are rows.
        labels: Names of the classes of outputs.
    Raises:
        InvalidArgument: An output does not fit where it is wished, or has no classes.
    """
    places: Mapping[str, SharedPlace] = {}
    if wishes:  # nearly never, so that it shall cost nothing
        outputs = {**outputs, **_classified(outputs, wishes, batched, labels)}
        places = {wish.name: wish.place for wish in wishes if wish.place is not None}
    raw = raw or bool(places) or not all(_has_typed_form(array) for array in outputs.values())
    for name, array in outputs.items():
        tensor = response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        if not raw:
            tensor.contents.CopyFrom(encode_typed(array))
        elif name in places:
            _put(tensor, array, places[name])
            response.raw_output_contents.append(b"")  # clients count entries by outputs, these included
        else:
            response.raw_output_contents.append(encode_raw(array))


def _has_typed_form(array: Array) -> bool:
    return has_typed_form(datatype_of(array.dtype))


def _classified(
    outputs: Mapping[str, Array], wishes: Sequence[Wish], batched: bool, labels: Mapping[str, Sequence[str]]
) -> dict[str, Array]:
    return {
        wish.name: classify(outputs[wish.name], wish.classes, labels.get(wish.name, ()), batched=batched)
        for wish in wishes
        if wish.classes
    }


def _put(tensor: pb.ModelInferResponse.InferOutputTensor, array: Array, place: SharedPlace) -> None:
    data = raw_view(array)
    if len(data) > place.size_bytes:
        raise InvalidArgument(
            f"output {tensor.name!r} has {len(data)} bytes, but 'shared_memory_byte_size' is {place.size_bytes}; "
            "make room for it",
            field="outputs",
        )
    place.region.write(place.offset, data)
    tensor.parameters[SHARED].string_param = place.region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = len(data)
    if place.offset:
        tensor.parameters["shared_memory_offset"].int64_param = place.offset
