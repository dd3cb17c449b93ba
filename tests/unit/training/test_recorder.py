"""Measures on their way to the task's history and to trackers."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.tasks.history import History, read_history
from headrace.testing import FakeClock
from headrace_training.recorder import TRACK_EVERY_S, Recorder


class Remembering:
    def __init__(self, *, fails: bool = False) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        self._fails = fails

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._fails:
            raise OSError("the disk is full")
        self.points.append((step, dict(metrics)))

    def close(self, error: BaseException | None) -> None:
        self.closed = True


def test_trackers_get_so_many_points_a_second_every_evaluation_and_the_last(tmp_path: Path) -> None:
    clock, tracker = FakeClock(), Remembering()
    with Recorder(History(tmp_path, clock), lambda step: [tracker], clock) as recorder:
        recorder.track(0)
        for step in range(1, 11):
            recorder.stepped(step, {"loss": 1 / step})
            clock.advance(TRACK_EVERY_S / 4)
        recorder.evaluated(10, {"accuracy": 0.5})
    assert [step for step, _ in tracker.points] == [1, 5, 9, 10, 10]
    assert tracker.points[-2:] == [(10, {"accuracy": 0.5}), (10, {"loss": 0.1})]
    assert tracker.closed
    assert read_history(tmp_path)["loss"].steps == list(range(1, 11)), "the history has every step"


def test_the_measures_of_an_evaluation_count_for_its_own_step_alone(tmp_path: Path) -> None:
    """A rank tells the newest of every measure with each step."""
    clock = FakeClock()
    with Recorder(History(tmp_path, clock), lambda step: [], clock) as recorder:
        recorder.evaluated(1, {"accuracy": 0.5})
        recorder.stepped(1, {"loss": 2.0, "accuracy": 0.5})
        recorder.stepped(2, {"loss": 1.0, "accuracy": 0.5})
    history = read_history(tmp_path)
    assert history["accuracy"].steps == [1]
    assert history["loss"].steps == [1, 2]


def test_a_checkpoint_takes_the_history_along(tmp_path: Path) -> None:
    clock = FakeClock()
    recorder = Recorder(History(tmp_path, clock), lambda step: [], clock)
    recorder.stepped(1, {"loss": 2.0})
    recorder.checkpointed()
    assert read_history(tmp_path)["loss"].steps == [1]


@pytest.mark.parametrize("folder", ["", "missing"])
def test_what_cannot_be_written_does_not_end_the_training(tmp_path: Path, folder: str) -> None:
    clock, other = FakeClock(), Remembering()
    with Recorder(
        History(tmp_path / folder, clock), lambda step: [Remembering(fails=True), other], clock
    ) as recorder:
        recorder.track(0)
        recorder.stepped(1, {"loss": 1.0})
    assert other.points == [(1, {"loss": 1.0})]
