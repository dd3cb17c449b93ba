"""Which chunks of a gradient that is still computed a shard has, and when."""

from collections.abc import Iterator

import numpy as np
import pytest

from headrace.errors import ShapeMismatch
from headrace.parameters.begun_call import BegunCall
from headrace.parameters.early import Early
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.filters.config import NONE
from headrace.parameters.gathering import gather
from headrace.parameters.known_shards import Shards
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.placement import Placement
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.together import Together
from headrace.parameters.v1.parameters_pb2 import PushRequest
from headrace.parameters.wire import CHUNK_VALUES

SIZE = 5 * CHUNK_VALUES + 6
HALF = SIZE // 2
GRADIENT = np.arange(SIZE, dtype=np.float32)


class Stream:
    """What a shard reads, to which a stream that was cancelled looks for a moment like one that has ended, as in gRPC."""

    def __init__(self, requests: Iterator[PushRequest]) -> None:
        self.requests = requests

    def cancel(self) -> None:
        """Be nothing that the shard sees."""


@pytest.fixture
def streams() -> list[Stream]:
    return []


@pytest.fixture
def early(streams: list[Stream]) -> Early:
    """Return a gradient for two shards, of which every value is ready."""

    def begin(requests: Iterator[PushRequest]) -> Stream:
        streams.append(Stream(requests))
        return streams[-1]

    calls = [BegunCall(ShardFilter(NONE), PushRequest(), begin) for _ in range(2)]
    placement = Placement(FlatLayout((TensorSpec("w", (SIZE,)),)), ShardMap.first(SIZE, 2))
    made = Early(Shards(placement, [], [], Together(2, timeout_s=1)), 0, GRADIENT, 1, calls)
    for start in range(SIZE - 100, -100, -100):  # as backward comes to them
        made.ready(range(max(0, start), start + 100))
    return made


def test_a_shard_misses_some_of_a_gradient_that_was_given_up_though_all_of_it_was_ready(
    early: Early, streams: list[Stream]
) -> None:
    early.cancel()
    for stream in streams:
        with pytest.raises(ShapeMismatch, match="has ended without"):
            gather(stream.requests, np.zeros(HALF, np.float32))


def test_a_shard_has_all_of_a_gradient_that_it_is_to_take(early: Early, streams: list[Stream]) -> None:
    for index, stream in enumerate(streams):
        call = early.call_of(early._shards, index)
        assert call
        call.cancel()  # ends the stream, too
        values = np.zeros(HALF, np.float32)
        gather(stream.requests, values)
        np.testing.assert_array_equal(values, GRADIENT[index * HALF : (index + 1) * HALF])
