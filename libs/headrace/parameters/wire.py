"""Flat vectors and layouts on the wire: values as chunks of little-endian float32 in a stream of messages."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from headrace.errors import ShapeMismatch
from headrace.parameters.answers import Received
from headrace.parameters.codec import carried
from headrace.parameters.encoded import plain
from headrace.parameters.filters.encodings import CODECS, Encoding
from headrace.parameters.keys import arcs_of, spans_of
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import parameters_pb2, resharding_pb2, shard_map_pb2, stores_pb2

# 1 MiB: large enough that the cost per message is small, far below every message limit.
CHUNK_VALUES = 1 << 18

Carrier = TypeVar(
    "Carrier",
    parameters_pb2.InitializeRequest,
    parameters_pb2.PushRequest,
    parameters_pb2.PushPullRequest,
    parameters_pb2.PullResponse,
    parameters_pb2.PushPullResponse,
    resharding_pb2.FetchResponse,
)


@dataclass(frozen=True)
class Piece:
    """Consecutive values of a shard: shape (n,), float32, contiguous; the first is value `offset` of the shard."""

    offset: int
    values: Floats


def carry(
    first: Carrier, pieces: Sequence[Piece], encoding: Encoding = Encoding.FLOAT32
) -> Iterator[Carrier]:
    """Yield `first` with the first chunk of `pieces` in it, then messages of its kind that hold one chunk each.

    Chunks of float32 are views of the pieces: `headrace.parameters.codec` writes them.
    """
    message = first
    empty = True
    for piece in pieces:
        for start in range(0, piece.values.size, CHUNK_VALUES):
            chunk = piece.values[start : start + CHUNK_VALUES]
            offset = piece.offset + start
            if encoding is Encoding.FLOAT32:
                yield carried(message, offset, chunk.astype("<f4", copy=False).data)
            else:
                yield carried(message, offset, CODECS[encoding].encode(chunk).data, encoding, chunk.size)
            empty = False
            message = type(first)()
    if empty:
        yield message


def carried_bytes(pieces: Sequence[Piece], encoding: Encoding) -> int:
    """Return how many bytes of values `carry` makes of these pieces."""
    whole, size = CODECS[encoding].size(CHUNK_VALUES), CODECS[encoding].size
    return sum(
        piece.values.size // CHUNK_VALUES * whole + size(piece.values.size % CHUNK_VALUES) for piece in pieces
    )


def receive(messages: Iterable[Carrier], pieces: Sequence[Piece]) -> int:
    """Write the chunks of `messages` into `pieces`, which they must fill exactly and in order.

    Returns:
        How many bytes of values came.
    Raises:
        InvalidArgument: There is no such encoding.
        ShapeMismatch: A chunk is missing, out of order, or cut within a value, or there are too many values.
    """
    places, received = deque(piece for piece in pieces if piece.values.size), 0
    for message in messages:
        if message.chunk.values:
            received += len(message.chunk.values)
            _write(plain(message.chunk), message.chunk.offset, places)
    if places:
        place = places[0]
        raise ShapeMismatch(
            f"the values end at offset {place.offset}, {place.values.size} or more too early; send all of the shard's",
            metadata={"offset": place.offset},
        )
    return received


def _write(data: bytes | memoryview, offset: int, places: deque[Piece]) -> None:
    """Write one chunk to the first places, and leave those that are not full."""
    if not places:
        raise ShapeMismatch(
            f"{len(data)} bytes at offset {offset} follow the last value; send the shard's only"
        )
    room, first = _room(places), places[0].offset
    if len(data) % 4 or offset != first or len(data) > 4 * room:
        raise ShapeMismatch(
            f"a chunk of {len(data)} bytes at offset {offset} does not fit; "
            f"at most {4 * room} bytes of float32 at offset {first} must come next",
            metadata={"offset": first},
        )
    values = np.frombuffer(data, "<f4")
    while values.size:
        place = places.popleft()
        count = min(values.size, place.values.size)
        place.values[:count] = values[:count]
        values = values[count:]
        if count < place.values.size:
            places.appendleft(Piece(place.offset + count, place.values[count:]))


def _room(places: Iterable[Piece]) -> int:
    """Say for how many values there is room until the first gap."""
    room, end = 0, None
    for place in places:
        if end not in (None, place.offset):
            break
        room, end = room + place.values.size, place.offset + place.values.size
    return room


def pulled_from_proto(answer: parameters_pb2.PullResponse) -> Received:
    """Read what a shard says of the values it sends."""
    return Received(
        answer.version,
        answer.staleness,
        incarnation=answer.incarnation,
        modified=not answer.not_modified,
        term=answer.term,
    )


def push_pulled_from_proto(answer: parameters_pb2.PushPullResponse) -> Received:
    """Read what a shard says of the values it sends for a gradient."""
    return Received(
        answer.version,
        answer.staleness,
        answer.next_step,
        incarnation=answer.incarnation,
        term=answer.term,
    )


def layout_from_proto(tensors: Iterable[stores_pb2.TensorSpec]) -> FlatLayout:
    """Read a layout; InvalidArgument if it is none."""
    return FlatLayout(tuple(TensorSpec(tensor.name, tuple(tensor.shape)) for tensor in tensors))


def layout_to_proto(layout: FlatLayout) -> list[stores_pb2.TensorSpec]:
    """Write a layout."""
    return [stores_pb2.TensorSpec(name=tensor.name, shape=tensor.shape) for tensor in layout.tensors]


def map_from_proto(message: shard_map_pb2.ShardMap) -> ShardMap:
    """Read a shard map; InvalidArgument if it is none."""
    ranges = {
        shard.shard: tuple(range(part.start, part.stop) for part in shard.ranges) for shard in message.shards
    }
    addresses = {shard.shard: shard.address for shard in message.shards if shard.address}
    spans = [(part.start, part.stop, shard.shard) for shard in message.shards for part in shard.arcs]
    return ShardMap(message.epoch, message.size, message.blocks, ranges, addresses, arcs_of(spans))


def map_to_proto(shard_map: ShardMap) -> shard_map_pb2.ShardMap:
    """Write a shard map."""
    shards = [
        shard_map_pb2.ShardRanges(
            shard=shard,
            address=shard_map.addresses.get(shard, ""),
            ranges=[
                shard_map_pb2.ValueRange(start=part.start, stop=part.stop) for part in shard_map.held(shard)
            ],
            arcs=[
                shard_map_pb2.ArcRange(start=start, stop=stop)
                for start, stop, owner in spans_of(shard_map.arcs)
                if owner == shard
            ],
        )
        for shard in shard_map.shards
    ]
    return shard_map_pb2.ShardMap(
        epoch=shard_map.epoch, size=shard_map.size, blocks=shard_map.blocks, shards=shards
    )
