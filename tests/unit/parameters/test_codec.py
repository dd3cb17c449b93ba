"""The hand-written codec against the generated one, which is right by definition."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from headrace.parameters import codec
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.v1.compression_pb2 import Encoding
from headrace.parameters.v1.parameters_pb2 import (
    Chunk,
    InitializeRequest,
    PullResponse,
    PushPullRequest,
    PushPullResponse,
    PushRequest,
)
from headrace.parameters.v1.stores_pb2 import TensorSpec

UINT64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    parameters_pb2.PushHeader,
    worker=st.integers(0, 2**32 - 1),
    epoch=UINT64,
    step=UINT64,
    samples=st.floats(),
)
TENSORS = st.lists(st.builds(TensorSpec, name=st.text(), shape=st.lists(st.integers(0, 2**40))), max_size=3)
HEADS: st.SearchStrategy[Message] = st.one_of(
    st.builds(InitializeRequest, store=st.text(), epoch=UINT64, tensors=TENSORS),
    st.builds(PushRequest, store=st.text(), header=st.none() | HEADERS),
    st.builds(PushPullRequest, store=st.text(), header=st.none() | HEADERS),
    st.builds(PullResponse, version=UINT64, staleness=UINT64),
    st.builds(PushPullResponse, version=UINT64, duplicate=st.booleans(), staleness=UINT64, next_step=UINT64),
)
WHOLE_CHUNKS = st.builds(
    Chunk,
    offset=UINT64,
    values=st.binary(max_size=300),
    encoding=st.sampled_from(Encoding.values()),
    count=UINT64,
)
KINDS = [InitializeRequest, PushRequest, PushPullRequest, PullResponse, PushPullResponse]


def _generated(message: Message | codec.Carried) -> Message:
    """Return the message of the generated class with the same content."""
    if not isinstance(message, codec.Carried):
        return message
    made = type(message.message)()
    made.CopyFrom(message.message)
    chunk = Chunk()
    chunk.offset, chunk.values = message.chunk.offset, bytes(message.chunk.values)
    chunk.encoding, chunk.count = cast("Any", message.chunk.encoding), message.chunk.count
    made.MergeFrom(type(made)(chunk=chunk))
    return made


def _with_chunk(head: Message, chunk: Chunk) -> Message:
    whole = type(head)()
    whole.CopyFrom(head)
    whole.MergeFrom(type(head)(chunk=chunk))
    return whole


def _read(read: Callable[[bytes], Message], data: bytes) -> bytes | None:
    """Return what was read, written by the generated code; None if it was refused."""
    try:
        return _generated(read(data)).SerializeToString(deterministic=True)
    except DecodeError:
        return None


@given(head=HEADS, chunk=WHOLE_CHUNKS)
def test_a_message_is_written_with_the_bytes_of_the_generated_code(head: Message, chunk: Chunk) -> None:
    expected = _with_chunk(head, chunk)

    made = codec.carried(head, chunk.offset, memoryview(chunk.values), chunk.encoding, chunk.count)

    assert codec.encode(made) == expected.SerializeToString()
    assert codec.encode(head) == head.SerializeToString()


@given(head=HEADS, chunk=WHOLE_CHUNKS)
def test_what_the_generated_code_wrote_is_read_without_a_copy_of_the_values(
    head: Message, chunk: Chunk
) -> None:
    data = _with_chunk(head, chunk).SerializeToString()

    read = codec.decoder(type(head))(data)

    assert isinstance(read, codec.Carried)
    assert read.message == head
    assert (read.chunk.offset, bytes(read.chunk.values)) == (chunk.offset, chunk.values)
    assert (read.chunk.encoding, read.chunk.count) == (chunk.encoding, chunk.count)
    assert read.chunk.values.obj is data


def _field(number: int, kind: int, content: bytes) -> bytes:
    return codec.varint(number << 3 | kind) + content


def _sized(content: bytes) -> bytes:
    return codec.varint(len(content)) + content


# Valid fields, known or not, in any order, twice, with numbers written longer than they need be: chunks of such fields too.
VARINTS = UINT64.map(codec.varint) | st.sampled_from([b"\x80\x00", b"\x81\x80\x00"])
CHUNKS = st.lists(
    st.builds(_field, st.sampled_from([1, 3, 4, 200]), st.just(0), VARINTS)
    | st.builds(_field, st.sampled_from([2, 3, 200]), st.just(2), st.binary(max_size=20).map(_sized)),
    max_size=4,
).map(lambda fields: _sized(b"".join(fields)))
FIELDS = st.lists(
    st.builds(_field, st.sampled_from([1, 2, 3, 4, 5, 2000]), st.just(0), VARINTS)
    | st.builds(_field, st.sampled_from([7, 99]), st.just(1), st.binary(min_size=8, max_size=8))
    | st.builds(_field, st.sampled_from([7, 99]), st.just(5), st.binary(min_size=4, max_size=4))
    | st.builds(_field, st.integers(2, 5), st.just(2), CHUNKS)
    | st.builds(_field, st.sampled_from([9]), st.just(2), st.binary(max_size=20).map(_sized)),
    max_size=5,
).map(b"".join)


@pytest.mark.parametrize("kind", KINDS)
@given(data=FIELDS | st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_the_generated_code_does(kind: type[Message], data: bytes) -> None:
    assert _read(codec.decoder(kind), data) == _read(kind.FromString, data)


@pytest.mark.parametrize("kind", KINDS)
@given(head=st.data(), cut=st.floats(0, 1), flip=st.integers(0, 255))
def test_a_damaged_message_is_read_or_refused_as_the_generated_code_does(
    kind: type[Message], head: st.DataObject, cut: float, flip: int
) -> None:
    whole = kind(chunk=Chunk(offset=300, values=bytes(range(200))))
    data = bytearray(whole.SerializeToString())
    at = int(cut * (len(data) - 1))
    data[at] ^= flip
    damaged = bytes(data[: head.draw(st.integers(0, len(data)))])

    assert _read(codec.decoder(kind), damaged) == _read(kind.FromString, damaged)
