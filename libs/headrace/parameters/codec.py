"""Messages with a chunk, written and read without the copies of the chunk that the generated code makes.

The bytes are those of the generated classes, so that either end may use them: `tests/unit/parameters/test_codec.py` shows it. A
`Carried` stands in for a message: it has the same fields, but the values of its chunk are a view of memory that lies elsewhere, of
an array on its way out, of the received bytes on their way in. What is not laid out as the generated code does it, the generated code reads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

Encoded = TypeVar("Encoded", bound=Message)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_OFFSET = 1 << 3 | _VARINT  # the tags of Chunk
_VALUES = 2 << 3 | _BYTES
_ENCODING = 3 << 3 | _VARINT
_COUNT = 4 << 3 | _VARINT
_LONGEST_VARINT = 10  # bytes of one with 64 bits
_MAX_UINT64 = (1 << 64) - 1
_MAX_INT32 = (1 << 31) - 1  # a greater enum value is negative, or too long


@dataclass(frozen=True, slots=True)
class ChunkView:
    """As the message Chunk; `values` are bytes, one dimension."""

    offset: int
    values: memoryview
    encoding: int = 0
    count: int = 0


class Carried:
    """A message whose chunk lies elsewhere; every other field is that of `message`."""

    __slots__ = ("chunk", "message")

    def __init__(self, message: Message, chunk: ChunkView) -> None:
        self.message = message
        self.chunk = chunk

    def __getattr__(self, field: str) -> Any:
        return getattr(self.message, field)


def carried(message: Encoded, offset: int, values: memoryview, encoding: int = 0, count: int = 0) -> Encoded:
    """Give a message that has no chunk this one, which must not change before the message is on its way."""
    return cast("Encoded", Carried(message, ChunkView(offset, values.cast("B"), encoding, count)))


def encode(message: Message | Carried) -> bytes:
    """Write a message as its generated class would."""
    if not isinstance(message, Carried):
        return message.SerializeToString()
    number = message.message.DESCRIPTOR.fields_by_name["chunk"].number
    before, after = _split(message.message.SerializeToString(), number)
    chunk = message.chunk
    values, inner = chunk.values, _number(_OFFSET, chunk.offset)
    if values.nbytes:
        inner += bytes([_VALUES]) + varint(values.nbytes)
    rest = _number(_ENCODING, chunk.encoding) + _number(_COUNT, chunk.count)
    tag = varint(number << 3 | _BYTES)
    length = len(inner) + values.nbytes + len(rest)
    return b"".join((before, tag, varint(length), inner, values, rest, after))


def decoder(kind: type[Encoded]) -> Callable[[bytes], Encoded]:
    """Return a function that reads messages of a class; it raises what `FromString` raises for bytes that are none."""
    tag = kind.DESCRIPTOR.fields_by_name["chunk"].number << 3 | _BYTES

    def decode(data: bytes) -> Encoded:
        found = _only_chunk(data, tag)
        if found is None:
            return kind.FromString(data)
        (start, stop), chunk = found
        return cast("Encoded", Carried(kind.FromString(data[:start] + data[stop:]), chunk))

    return decode


class Malformed(Exception):
    """Bytes that only the generated code knows what to do with."""


def _split(head: bytes, number: int) -> tuple[bytes, bytes]:
    """Cut an encoded message where a field of this number belongs."""
    for tag, start, _, _ in fields_of(head):
        if tag >> 3 > number:
            return head[:start], head[start:]
    return head, b""


def _only_chunk(data: bytes, tag: int) -> tuple[tuple[int, int], ChunkView] | None:
    """Find the one chunk and where its field lies; None if there is none, a second one, or anything unusual."""
    try:
        chunks = [(start, content, stop) for found, start, content, stop in fields_of(data) if found == tag]
        if len(chunks) != 1:
            return None
        start, content, stop = chunks[0]
        return (start, stop), _chunk(data, content, stop)
    except Malformed:
        return None


def _chunk(data: bytes, at: int, stop: int) -> ChunkView:
    """Read the content of a chunk: each of its fields once or not at all, in their order, and nothing else."""
    values = (stop, stop)
    offset, at = _optional(data, at, stop, _OFFSET)
    if at < stop and data[at] == _VALUES:
        length, at = read_varint(data, at + 1)
        values, at = (at, at + length), at + length
    encoding, at = _optional(data, at, stop, _ENCODING)
    count, at = _optional(data, at, stop, _COUNT)
    if at != stop or encoding > _MAX_INT32:
        raise Malformed
    return ChunkView(offset, memoryview(data)[slice(*values)], encoding, count)


def _optional(data: bytes, at: int, stop: int, tag: int) -> tuple[int, int]:
    """Read a number if the next field is this one; return it, or 0, and where it ends."""
    return read_varint(data, at + 1) if at < stop and data[at] == tag else (0, at)


def fields_of(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's tag, and where it starts, where its content starts, and where it stops; Malformed if it does not."""
    stop = 0
    while stop < len(data):
        start = stop
        tag, content = read_varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            stop = read_varint(data, content)[1]
        elif kind == _BYTES:
            length, content = read_varint(data, content)
            stop = content + length
        elif kind in (_FIXED32, _FIXED64):
            stop = content + (4 if kind == _FIXED32 else 8)
        else:  # groups, and what does not exist
            raise Malformed
        if stop > len(data):
            raise Malformed
        yield tag, start, content, stop


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that is encoded at a place, and the place after it; Malformed if there is none."""
    value = 0
    for index, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value > _MAX_UINT64:
                raise Malformed
            return value, at + index + 1
    raise Malformed


def _number(tag: int, value: int) -> bytes:
    """Write a field, unless it is 0."""
    return bytes([tag]) + varint(value) if value else b""


def varint(value: int) -> bytes:
    """Encode a number."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
