"""Flat vectors and layouts on the wire: values as chunks of little-endian float32 in a stream of messages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from headrace.errors import ShapeMismatch
from headrace.parameters.codec import carried
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import parameters_pb2, stores_pb2

# 1 MiB: large enough that the cost per message is small, far below every message limit.
CHUNK_VALUES = 1 << 18

Carrier = TypeVar(
    "Carrier",
    parameters_pb2.InitializeRequest,
    parameters_pb2.PushRequest,
    parameters_pb2.PushPullRequest,
    parameters_pb2.PullResponse,
    parameters_pb2.PushPullResponse,
)


@dataclass(frozen=True)
class Piece:
    """Consecutive values of a shard: shape (n,), float32, contiguous; the first is value `offset` of the shard."""

    offset: int
    values: Floats


def carry(first: Carrier, pieces: Sequence[Piece]) -> Iterator[Carrier]:
    """Yield `first` with the first chunk of `pieces` in it, then messages of its kind that hold one chunk each.

    The chunks are views of the pieces: `headrace.parameters.codec` writes them.
    """
    message = first
    empty = True
    for piece in pieces:
        for start in range(0, piece.values.size, CHUNK_VALUES):
            chunk = piece.values[start : start + CHUNK_VALUES]
            yield carried(message, piece.offset + start, chunk.astype("<f4", copy=False).data)
            empty = False
            message = type(first)()
    if empty:
        yield message


def receive(messages: Iterable[Carrier], pieces: Sequence[Piece]) -> None:
    """Write the chunks of `messages` into `pieces`, which they must fill exactly and in order.

    Raises:
        ShapeMismatch: A chunk is missing, out of order, or cut within a value, or there are too many values.
    """
    places = _places(pieces)
    place = next(places, None)
    for message in messages:
        data = message.chunk.values
        if not data:
            continue
        place = _write(data, message.chunk.offset, place)
        if not place.values.size:
            place = next(places, None)
    if place is not None:
        raise ShapeMismatch(
            f"the values end at offset {place.offset}, {place.values.size} or more too early; send all of the shard's",
            metadata={"offset": place.offset},
        )


def _places(pieces: Iterable[Piece]) -> Iterator[Piece]:
    return (piece for piece in pieces if piece.values.size)


def _write(data: bytes | memoryview, offset: int, place: Piece | None) -> Piece:
    """Write one chunk to the front of `place` and return what is left of it."""
    if place is None:
        raise ShapeMismatch(
            f"{len(data)} bytes at offset {offset} follow the last value; send the shard's only"
        )
    count, rest = divmod(len(data), 4)
    if rest or offset != place.offset or count > place.values.size:
        raise ShapeMismatch(
            f"a chunk of {len(data)} bytes at offset {offset} does not fit; "
            f"at most {4 * place.values.size} bytes of float32 at offset {place.offset} must come next",
            metadata={"offset": place.offset},
        )
    place.values[:count] = np.frombuffer(data, "<f4")
    return Piece(place.offset + count, place.values[count:])


def layout_from_proto(tensors: Iterable[stores_pb2.TensorSpec]) -> FlatLayout:
    """Read a layout; InvalidArgument if it is none."""
    return FlatLayout(tuple(TensorSpec(tensor.name, tuple(tensor.shape)) for tensor in tensors))


def layout_to_proto(layout: FlatLayout) -> list[stores_pb2.TensorSpec]:
    """Write a layout."""
    return [stores_pb2.TensorSpec(name=tensor.name, shape=tensor.shape) for tensor in layout.tensors]
