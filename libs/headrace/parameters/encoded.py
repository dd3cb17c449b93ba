"""Compression on the wire: what a chunk stands for, and what a store does to its values."""

from typing import Protocol

import numpy as np

from headrace.errors import InvalidArgument, ShapeMismatch
from headrace.parameters.filters import encodings, sparse
from headrace.parameters.filters.config import DENSITY, THRESHOLD, Compression, Significance, TopK
from headrace.parameters.filters.encodings import Encoding
from headrace.parameters.v1 import compression_pb2

MOST_VALUES = 1 << 20  # of a chunk: what a few bytes may stand for is bounded


class EncodedChunk(Protocol):
    """The message Chunk, as far as its values go."""

    @property
    def values(self) -> bytes | memoryview:
        """The bytes."""

    @property
    def encoding(self) -> int:
        """How they stand for values."""

    @property
    def count(self) -> int:
        """For how many."""


def plain(chunk: EncodedChunk) -> bytes | memoryview:
    """Return the values of a chunk as little-endian float32: its own bytes, if they are that.

    Raises:
        InvalidArgument: There is no such encoding, or a chunk may not have as many values.
        ShapeMismatch: The bytes are not as many values as it says.
    """
    if not chunk.encoding and not chunk.count:
        return chunk.values
    encoding = encoding_from_proto(chunk.encoding, "chunk.encoding")
    if not 1 <= chunk.count <= MOST_VALUES:
        raise InvalidArgument(
            f"chunk.count is {chunk.count}; it must be 1 to {MOST_VALUES} with {encoding.name}",
            field="chunk.count",
        )
    if encoding is Encoding.FLOAT32:
        if len(chunk.values) != 4 * chunk.count:
            raise ShapeMismatch(f"{chunk.count} values of float32 were told of in {len(chunk.values)} bytes")
        return chunk.values
    values = np.empty(chunk.count, np.float32)
    if encoding is Encoding.SPARSE:
        sparse.decode(chunk.values, values)
    else:
        encodings.decode(encoding, chunk.values, values)
    return values.astype("<f4", copy=False).view(np.uint8).data


def encoding_from_proto(encoding: int, field: str) -> Encoding:
    """Read an encoding; InvalidArgument if there is no such one."""
    try:
        return Encoding(encoding or Encoding.FLOAT32)
    except ValueError as error:
        names = ", ".join(f"ENCODING_{known.name}" for known in Encoding)
        raise InvalidArgument(f"{field} is {encoding}; use {names}", field=field) from error


def compression_from_proto(message: compression_pb2.Compression) -> Compression:
    """Read what a store does to its values; InvalidArgument names the field that cannot be."""
    values = encoding_from_proto(message.value_encoding, "compression.value_encoding")
    match message.WhichOneof("gradients"):
        case "top_k":
            return Compression(TopK(message.top_k.density or DENSITY), values)
        case "significance":
            return Compression(Significance(message.significance.threshold or THRESHOLD), values)
        case _:
            field = "compression.gradient_encoding"
            return Compression(encoding_from_proto(message.gradient_encoding, field), values)


def compression_to_proto(compression: Compression) -> compression_pb2.Compression | None:
    """Write what a store does to its values; None if that is nothing."""
    if compression == Compression():
        return None
    message = compression_pb2.Compression()
    if compression.values is not Encoding.FLOAT32:
        message.value_encoding = encoding_to_proto(compression.values)
    match compression.gradients:
        case TopK(density):
            message.top_k.density = density
        case Significance(threshold):
            message.significance.threshold = threshold
        case Encoding.FLOAT32:
            pass
        case encoding:
            message.gradient_encoding = encoding_to_proto(encoding)
    return message


def encoding_to_proto(encoding: Encoding) -> compression_pb2.Encoding.ValueType:
    """Write an encoding."""
    return compression_pb2.Encoding.Value(f"ENCODING_{encoding.name}")
