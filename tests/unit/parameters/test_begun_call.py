"""What becomes of a gradient whose early call has failed."""

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.errors import (
    Cancelled,
    HeadraceError,
    Internal,
    MembersChanged,
    NonFiniteValues,
    NotPrimary,
    RunFinished,
    ShardMapChanged,
    StaleEpoch,
    Unavailable,
)
from headrace.parameters.begun_call import BegunCall
from headrace.parameters.filtering import ShardFilter
from headrace.parameters.filters.config import NONE
from headrace.parameters.operation import Operation
from headrace.parameters.v1.parameters_pb2 import PushRequest


class Running:
    """A call that gRPC makes."""

    def cancel(self) -> None:
        pass


def begun() -> BegunCall[PushRequest]:
    def begin(_: Iterator[PushRequest]) -> Running:
        return Running()

    return BegunCall(ShardFilter(NONE), PushRequest(), begin)


def refusing(error: HeadraceError) -> Any:
    def read(_: object) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    "kind", [StaleEpoch, RunFinished, MembersChanged, ShardMapChanged, NonFiniteValues, NotPrimary]
)
def test_what_would_be_refused_again_is_not_sent_again(kind: type[HeadraceError]) -> None:
    with pytest.raises(kind):
        begun().finish(Operation(10), refusing(kind("refused")))


@pytest.mark.parametrize("kind", [Unavailable, Cancelled, Internal])
def test_what_was_lost_on_the_way_is_sent_whole(kind: type[HeadraceError]) -> None:
    assert begun().finish(Operation(10), refusing(kind("lost"))) is None
