"""Several requests as one run, and its outputs as several answers."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.errors import ShapeMismatch
from headrace_inference.core.batching import Arrays, Request
from headrace_inference.core.padding import Padding


@dataclass(frozen=True)
class Joined:
    """The inputs of a batch as one, with every output that any of its requests wishes.

    Args:
        length: What the padded inputs are filled up to; 0 if nothing is padded.
        elements, padding: Elements of the padded inputs, and how many of these are padding.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    length: int = 0
    elements: int = 0
    padding: int = 0


def kind_of(inputs: Arrays, padding: Padding | None) -> Hashable:
    """Return what is equal for requests that can be joined: names, dtypes and shapes without first and padded axes.

    Raises:
        InvalidArgument: Two inputs that are padded together have different lengths.
    """
    names = sorted(inputs) if len(inputs) > 1 else inputs
    if padding is None:
        return tuple([(name, inputs[name].dtype, inputs[name].shape[1:]) for name in names])
    bucket = padding.bucket(padding.length(inputs))
    return (bucket, *((name, inputs[name].dtype, _other_sizes(inputs, name, padding)) for name in names))


def _other_sizes(inputs: Arrays, name: str, padding: Padding) -> tuple[int, ...]:
    padded, shape = padding.inputs.get(name, 0), inputs[name].shape
    return tuple(size for axis, size in enumerate(shape) if axis not in (0, padded))


def join(batch: Sequence[Request], padding: Padding | None = None) -> Joined:
    """Return the requests of one kind as one."""
    first = batch[0]
    if padding is not None:
        return _join_padded(batch, padding)
    if len(batch) == 1:
        return Joined(first.inputs, first.outputs)
    inputs = {name: np.concatenate([request.inputs[name] for request in batch]) for name in first.inputs}
    return Joined(inputs, _outputs(batch))


def _join_padded(batch: Sequence[Request], padding: Padding) -> Joined:
    length = padding.target(max(padding.length(request.inputs) for request in batch))
    inputs = {
        name: np.concatenate([padding.filled(name, request.inputs[name], length) for request in batch])
        for name in batch[0].inputs
    }
    elements = sum(inputs[name].size for name in padding.inputs)
    real = sum(request.inputs[name].size for request in batch for name in padding.inputs)
    return Joined(inputs, _outputs(batch), length, elements, elements - real)


def _outputs(batch: Sequence[Request]) -> tuple[str, ...]:
    wished = batch[0].outputs
    if all(request.outputs == wished for request in batch):
        return wished
    return tuple(dict.fromkeys(name for request in batch for name in request.outputs))


def split(
    outputs: Arrays, batch: Sequence[Request], padding: Padding | None = None, length: int = 0
) -> list[Arrays]:
    """Return to each request its own rows of the outputs it wishes, without padding.

    Args:
        length: `Joined.length`.
    Raises:
        ShapeMismatch: An output does not have as many rows as the batch.
        FailedPrecondition: An output does not have the length that the padding says.
    """
    answers = _rows(outputs, batch)
    if padding is None:
        return answers
    return [
        {
            name: padding.cut(name, array, padding.length(request.inputs), length)
            for name, array in answer.items()
        }
        for request, answer in zip(batch, answers, strict=True)
    ]


def _rows(outputs: Arrays, batch: Sequence[Request]) -> list[Arrays]:
    if len(batch) == 1:
        return [{name: outputs[name] for name in batch[0].outputs}]
    rows = sum([request.rows for request in batch])
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ShapeMismatch(f"output {name!r} has shape {list(array.shape)} for {rows} rows")
    answers: list[Arrays] = []
    begin = 0
    for request in batch:
        end = begin + request.rows
        answers.append({name: outputs[name][begin:end] for name in request.outputs})
        begin = end
    return answers
