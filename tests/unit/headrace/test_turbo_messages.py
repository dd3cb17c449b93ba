"""Messages of gRPC within the bytes of a stream, however these are cut."""

import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Internal, ResourceExhausted, Unimplemented
from headrace.rpc.turbo.messages import Deframer, decompressed, framed, framed_compressed

LIMIT = 1 << 16
messages = st.lists(st.binary(max_size=300), max_size=8)


@given(
    messages, st.lists(st.integers(1, 50), min_size=1), st.sampled_from([b"identity", b"gzip", b"deflate"])
)
def test_messages_come_whole_and_in_order_wherever_the_bytes_are_cut(
    sent: list[bytes], cuts: list[int], encoding: bytes
) -> None:
    plain = encoding == b"identity"
    data = b"".join(
        part
        for message in sent
        for part in (framed(message) if plain else framed_compressed(message, encoding))
    )
    deframer, found, at, turn = Deframer(LIMIT, encoding), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        found += deframer.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert found == sent
    assert not deframer.size


def test_a_frame_full_of_messages_without_bytes_is_as_many_messages() -> None:
    assert Deframer(LIMIT, b"identity").feed(b"".join(framed(b"")) * 200_000) == [b""] * 200_000


def test_a_message_that_is_too_large_is_refused_before_it_has_come() -> None:
    deframer = Deframer(100, b"identity")
    with pytest.raises(ResourceExhausted, match="100"):
        deframer.feed(b"\0" + (101).to_bytes(4, "big"))


def test_a_message_as_large_as_may_be_is_taken() -> None:
    assert Deframer(100, b"identity").feed(b"".join(framed(b"x" * 100))) == [b"x" * 100]


def test_a_large_message_is_written_as_a_small_one_is() -> None:
    large = b"x" * 100_000
    assert b"".join(framed(large)) == b"\0" + len(large).to_bytes(4, "big") + large


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_small_message_that_would_become_too_large_is_refused(encoding: bytes) -> None:
    bomb = b"".join(framed_compressed(b"\0" * 10_000_000, encoding))
    assert len(bomb) < LIMIT
    with pytest.raises(ResourceExhausted):
        Deframer(LIMIT, encoding).feed(bomb)


def test_what_says_it_is_compressed_must_be_as_the_call_said() -> None:
    packed = b"".join(framed_compressed(b"hello", b"gzip"))
    with pytest.raises(Internal, match="grpc-encoding"):
        Deframer(LIMIT, b"identity").feed(packed)
    with pytest.raises(Unimplemented, match=r"'snappy'.*identity, deflate, gzip"):
        Deframer(LIMIT, b"snappy").feed(packed)


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_damaged_bytes_are_refused_or_unpacked_and_nothing_else(data: bytes, encoding: bytes) -> None:
    with suppress(Internal, ResourceExhausted):
        assert len(decompressed(data, encoding, LIMIT)) <= LIMIT


def test_a_message_that_ends_before_its_compression_does_is_refused() -> None:
    with pytest.raises(Internal, match="ends before"):
        decompressed(zlib.compress(b"hello" * 100)[:-3], b"deflate", LIMIT)


@given(st.integers(2, 255), st.binary(max_size=20))
def test_a_flag_that_is_neither_0_nor_1_is_refused(flag: int, data: bytes) -> None:
    with pytest.raises(Internal, match=str(flag)):
        Deframer(LIMIT, b"identity").feed(bytes([flag]) + len(data).to_bytes(4, "big") + data)
