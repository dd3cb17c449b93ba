"""One request to all shards: what an attempt that is stopped ends with."""

import pytest

from headrace.errors import Cancelled, HeadraceError, NotPrimary, TooManyCalls, Unavailable
from headrace.parameters.operation import Operation


@pytest.mark.parametrize("met", [Unavailable, TooManyCalls, NotPrimary, Cancelled])
def test_an_attempt_that_was_stopped_ends_as_cancelled_whatever_its_call_met(
    met: type[HeadraceError],
) -> None:
    """A call that begins on a connection that closing has just broken fails as if the server were gone."""
    operation = Operation(60)

    def work() -> None:
        operation.stop()
        raise met("the lane broke")

    with pytest.raises(Cancelled, match="stopped"):
        operation.attempt(work)


def test_a_call_that_is_tracked_after_the_stop_is_cancelled_at_once() -> None:
    class Call:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    operation = Operation(60)
    operation.stop()
    assert operation.track(Call()).cancelled


def test_an_attempt_is_repeated_until_a_server_serves() -> None:
    answers: list[HeadraceError | int] = [Unavailable("away"), Cancelled("it stops"), 7]

    def work() -> int:
        answer = answers.pop(0)
        if isinstance(answer, HeadraceError):
            raise answer
        return answer

    assert Operation(60).attempt(work) == 7
