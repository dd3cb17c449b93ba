"""One request to all shards: what an attempt that is stopped ends with."""

from types import SimpleNamespace

import pytest

from headrace.errors import Cancelled, HeadraceError, NotPrimary, TooManyCalls, Unavailable
from headrace.parameters import operation
from headrace.parameters.operation import Operation


@pytest.mark.parametrize("met", [Unavailable, TooManyCalls, NotPrimary, Cancelled])
def test_an_attempt_that_was_stopped_ends_as_cancelled_whatever_its_call_met(
    met: type[HeadraceError],
) -> None:
    """A call that begins on a connection that closing has just broken fails as if the server were gone."""
    one = Operation(60)

    def work() -> None:
        one.stop()
        raise met("the lane broke")

    with pytest.raises(Cancelled, match="stopped"):
        one.attempt(work)


def test_an_attempt_says_why_the_last_one_failed_when_a_pause_has_taken_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = iter([0.0, 0.1, 0.2, 7.0])  # made, before the attempt, before the pause, after it
    monkeypatch.setattr(operation, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    attempts = []

    def work() -> None:
        attempts.append(1)
        raise Unavailable("cannot reach the shard")

    with pytest.raises(Unavailable, match="cannot reach the shard"):
        Operation(1).attempt(work)
    assert len(attempts) == 1


def test_a_call_that_is_tracked_after_the_stop_is_cancelled_at_once() -> None:
    class Call:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    one = Operation(60)
    one.stop()
    assert one.track(Call()).cancelled


def test_an_attempt_is_repeated_until_a_server_serves() -> None:
    answers: list[HeadraceError | int] = [Unavailable("away"), Cancelled("it stops"), 7]

    def work() -> int:
        answer = answers.pop(0)
        if isinstance(answer, HeadraceError):
            raise answer
        return answer

    assert Operation(60).attempt(work) == 7
