"""Chunks of a gradient that come in the order in which they were computed."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ShapeMismatch
from headrace.parameters.gathering import Gathered, gather
from headrace.parameters.v1.parameters_pb2 import Chunk, PushRequest


def _message(values: np.ndarray, part: range) -> PushRequest:
    return PushRequest(chunk=Chunk(offset=part.start, values=values[part.start : part.stop].tobytes()))


@st.composite
def _cut_and_shuffled(draw: st.DrawFn) -> tuple[int, Sequence[range]]:
    size = draw(st.integers(0, 40))
    cuts = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=8))})
    parts = [range(start, stop) for start, stop in pairwise(cuts)]
    return size, draw(st.permutations(parts))


@given(_cut_and_shuffled())
def test_chunks_come_in_any_order(case: tuple[int, Sequence[range]]) -> None:
    size, parts = case
    sent, received = np.arange(size, dtype=np.float32), np.full(size, -1, np.float32)

    gathered = gather([PushRequest(), *(_message(sent, part) for part in parts)], received)

    assert received.tolist() == sent.tolist()
    assert gathered == Gathered(sent.nbytes, finite=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_chunk_that_is_not_finite_is_seen_whatever_comes_after_it(bad: float) -> None:
    sent, received = np.array([0, bad, -bad, 3], np.float32), np.empty(4, np.float32)

    gathered = gather([_message(sent, part) for part in (range(1, 3), range(1), range(3, 4))], received)

    assert not gathered.finite


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "without the 3 values from offset 0"),
        ([(2, 4), (0, 4)], "without the 1 values from offset 1"),
        ([(1, 8), (0, 8)], "8 bytes at offset 0 does not fit.* missing is at offset 0"),
        ([(1, 8), (2, 4)], "4 bytes at offset 2 does not fit"),
        ([(0, 12), (1, 4)], "4 bytes at offset 1 does not fit.* none is missing"),
        ([(2, 8)], "8 bytes at offset 2 does not fit"),
        ([(3, 4)], "4 bytes at offset 3 does not fit"),
        ([(0, 6)], "6 bytes at offset 0 does not fit"),
    ],
)
def test_chunks_that_do_not_fill_the_shard_exactly_are_refused(
    chunks: list[tuple[int, int]], message: str
) -> None:
    messages = [PushRequest(chunk=Chunk(offset=offset, values=bytes(size))) for offset, size in chunks]

    with pytest.raises(ShapeMismatch, match=message):
        gather(messages, np.empty(3, np.float32))
