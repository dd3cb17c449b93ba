from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ShapeMismatch
from headrace.parameters import wire
from headrace.parameters.layout import Floats
from headrace.parameters.v1.parameters_pb2 import Chunk, PullResponse


def _pieces(values: Floats, cuts: Sequence[int]) -> list[wire.Piece]:
    """Cut `values` in pieces, each one value behind the end of the last."""
    parts = np.split(values, sorted(cuts))
    starts = np.cumsum([0] + [part.size + 1 for part in parts[:-1]])
    return [wire.Piece(int(start), part) for start, part in zip(starts, parts, strict=True)]


@given(size=st.integers(0, 50), cuts=st.lists(st.integers(0, 50), max_size=4))
def test_what_is_carried_is_received(size: int, cuts: list[int]) -> None:
    sent = np.arange(size, dtype=np.float32)
    received = np.full(size, -1, np.float32)
    cuts = [min(cut, size) for cut in cuts]

    messages = list(wire.carry(PullResponse(version=7), _pieces(sent, cuts)))
    wire.receive(messages, _pieces(received, cuts))

    assert received.tolist() == sent.tolist()
    assert messages[0].version == 7


def test_large_values_travel_in_chunks_of_one_mebibyte() -> None:
    sent = np.random.default_rng(0).normal(size=600_000).astype(np.float32)
    received = np.empty_like(sent)

    messages = list(wire.carry(PullResponse(version=7), [wire.Piece(0, sent)]))
    wire.receive(messages, [wire.Piece(0, received)])

    assert [len(message.chunk.values) for message in messages] == [1 << 20, 1 << 20, 302_848]
    assert [message.version for message in messages] == [7, 0, 0]
    assert np.array_equal(received, sent)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(0, 4)], "offset 1, 2 or more too early"),
        ([(0, 4), (8, 8)], "at offset 8 does not fit; at most 8 bytes of float32 at offset 1"),
        ([(0, 4), (0, 4)], "at offset 0 does not fit"),
        ([(0, 16)], "16 bytes at offset 0 does not fit"),
        ([(0, 12), (3, 4)], "4 bytes at offset 3 follow the last value"),
        ([(0, 6)], "6 bytes at offset 0 does not fit"),
    ],
)
def test_chunks_that_do_not_fill_the_shard_exactly_are_refused(
    chunks: list[tuple[int, int]], message: str
) -> None:
    messages = [PullResponse(chunk=Chunk(offset=offset, values=bytes(size))) for offset, size in chunks]

    with pytest.raises(ShapeMismatch, match=message):
        wire.receive(messages, [wire.Piece(0, np.empty(3, np.float32))])
