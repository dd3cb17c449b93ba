"""Memory of one process that others find through another one, and copy without mapping it."""

import numpy as np
import pytest

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.segments import MappedSegment, OwnSegment, copy_values
from headrace.parameters.v1.shared_memory_pb2 import SharedValues


@pytest.fixture
def own() -> OwnSegment:
    segment = OwnSegment(4)
    segment.view()[:] = [1, 2, 3, 4]
    segment.sequence = 7
    return segment


def values_in(own: OwnSegment, offset: int = 1, count: int = 2) -> SharedValues:
    return SharedValues(segment=own.describe(), sequence=own.sequence, offset=offset, count=count)


def test_values_are_found_through_whoever_has_mapped_them_when_their_owner_is_gone(own: OwnSegment) -> None:
    where = values_in(own)
    mapped = MappedSegment(own.describe(), passed_on=True)
    own.close()

    copied = np.zeros(2, np.float32)
    assert copy_values(mapped.pass_on(where), copied)
    assert copied.tolist() == [2, 3]


def test_a_copy_tells_that_its_values_were_written_to(own: OwnSegment) -> None:
    where = values_in(own)
    own.sequence = 8

    assert not copy_values(where, np.zeros(2, np.float32))


def test_values_beyond_a_segment_are_refused(own: OwnSegment) -> None:
    with pytest.raises(SharedMemoryUnavailable, match="2 values from 3 on do not lie in a segment of 4"):
        copy_values(values_in(own, offset=3), np.zeros(2, np.float32))


def test_nobody_finds_a_segment_through_a_mapping_that_is_gone(own: OwnSegment) -> None:
    mapped = MappedSegment(own.describe(), passed_on=True)
    where = mapped.pass_on(values_in(own))
    del mapped

    with pytest.raises(SharedMemoryUnavailable):
        copy_values(where, np.zeros(2, np.float32))
