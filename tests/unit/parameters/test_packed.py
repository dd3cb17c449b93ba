"""Messages with packed numbers: our codec against the generated one, both ways."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.parameters.packed import array_of, decoder, encode, packed
from headrace.parameters.v1.parameters_pb2 import PushHeader
from headrace.parameters.v1.rows_pb2 import (
    PullRowsRequest,
    PullRowsResponse,
    PushPullRowsRequest,
    PushPullRowsResponse,
    PushRowsRequest,
)

KEYS = st.lists(st.integers(0, (1 << 64) - 1), max_size=40)
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=40)
HEADERS = st.builds(
    PushHeader,
    worker=st.integers(0, 300),
    epoch=st.integers(0, 1 << 40),
    step=st.integers(0, 1 << 63),
    samples=st.floats(0, 1e9),
)
TEXTS = st.text(max_size=12)
KINDS: list[type[Message]] = [
    PullRowsRequest,
    PullRowsResponse,
    PushPullRowsRequest,
    PushPullRowsResponse,
    PushRowsRequest,
]


@given(store=TEXTS, table=TEXTS, header=HEADERS, keys=KEYS, gradients=FLOATS, asked=KEYS)
def test_bytes_are_those_of_the_generated_code(
    store: str, table: str, header: PushHeader, keys: list[int], gradients: list[float], asked: list[int]
) -> None:
    theirs = PushPullRowsRequest(
        store=store, table=table, header=header, keys=keys, gradients=gradients, pull_keys=asked
    )
    ours = packed(
        PushPullRowsRequest(store=store, table=table, header=header),
        keys=np.array(keys, np.uint64),
        gradients=np.array(gradients, np.float32),
        pull_keys=np.array(asked, np.uint64),
    )

    assert encode(ours) == theirs.SerializeToString()


@given(version=st.integers(0, 1 << 63), values=FLOATS)
def test_what_the_generated_code_wrote_is_read_as_arrays(version: int, values: list[float]) -> None:
    message = PullRowsResponse(version=version, values=values)

    read = decoder(PullRowsResponse)(message.SerializeToString())

    assert read.version == version
    assert array_of(read, "values").tolist() == array_of(message, "values").tolist() == values


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=60))
@example(data=b"q\x00\x00\x00\x00\x00\x00\x00\x00")  # one key, not packed
def test_any_bytes_are_read_as_the_generated_code_reads_them_or_refused_as_it_does(
    kind: type[Message], data: bytes
) -> None:
    try:
        expected = kind.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            decoder(kind)(data)
        return
    read = decoder(kind)(data)
    for field in kind.DESCRIPTOR.fields:
        if field.is_packed:
            mine, theirs = array_of(read, field.name), array_of(expected, field.name)
            assert np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
        else:
            assert getattr(read, field.name) == getattr(expected, field.name)


def test_numbers_in_two_parts_or_before_other_fields_are_left_to_the_generated_code() -> None:
    part = PullRowsRequest(keys=[1, 2]).SerializeToString()
    name = PullRowsRequest(table="t").SerializeToString()

    read = decoder(PullRowsRequest)(part + name + part)

    assert array_of(read, "keys").tolist() == [1, 2, 1, 2]
    assert read.table == "t"


@pytest.mark.parametrize("kind", KINDS)
def test_packed_fields_have_the_highest_numbers(kind: type[Message]) -> None:
    fields = kind.DESCRIPTOR.fields
    others = [field.number for field in fields if not field.is_packed]
    assert min(field.number for field in fields if field.is_packed) > max(others)
