"""Memory of one process that others find through another one."""

import pytest

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.segments import MappedSegment, OwnSegment
from headrace.parameters.v1.shared_memory_pb2 import SharedValues


@pytest.fixture
def own() -> OwnSegment:
    segment = OwnSegment(4)
    segment.view()[:] = [1, 2, 3, 4]
    segment.sequence = 7
    return segment


def values_in(own: OwnSegment) -> SharedValues:
    return SharedValues(segment=own.describe(), sequence=own.sequence, offset=1, count=2)


def test_values_are_found_through_whoever_has_mapped_them_when_their_owner_is_gone(own: OwnSegment) -> None:
    where = values_in(own)
    through = MappedSegment(own.describe(), passed_on=True)
    own.close()

    passed = through.pass_on(where)
    found = MappedSegment(passed.segment)
    assert found.part(passed).tolist() == [2, 3]
    assert found.is_current(passed)


def test_nobody_finds_a_segment_through_a_mapping_that_is_gone(own: OwnSegment) -> None:
    through = MappedSegment(own.describe(), passed_on=True)
    passed = through.pass_on(values_in(own))
    found = MappedSegment(passed.segment)
    assert found.can_be_found()
    del through

    assert not found.can_be_found()
    with pytest.raises(SharedMemoryUnavailable):
        MappedSegment(passed.segment)
