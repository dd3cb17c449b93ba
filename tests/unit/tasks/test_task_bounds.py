"""Whatever a program says, a task stays small and harmless to a terminal."""

import pytest

from headrace.tasks.bounds import MAX_DETAIL, MAX_MESSAGE, MAX_METRIC_NAME, MAX_METRICS, bound_event, bounded
from headrace.tasks.child import describe
from headrace.types.v1.task_pb2 import Best, Checkpoint, Failure, Progress, Task, TaskResult


def test_a_long_failure_is_cut_to_its_beginning_and_the_end_of_its_detail() -> None:
    failure = bounded(Failure(message="x" * 5_000_000, detail="a" * 5_000_000 + "the end"))
    assert len(failure.message) == MAX_MESSAGE
    assert failure.message.endswith("…")
    assert len(failure.detail) == MAX_DETAIL
    assert failure.detail.endswith("the end")


def test_a_short_failure_stays_as_it_is() -> None:
    failure = Failure(reason="PROGRAM_FAILED", message="ValueError: Größe 3", detail="line 1\n\tline 2")
    assert bounded(failure) == failure


def test_control_characters_do_not_reach_a_terminal() -> None:
    failure = bounded(Failure(message="red \x1b[31m\nnext", detail="bell \x07\nnext"))
    assert failure.message == "red [31m next"
    assert failure.detail == "bell  \nnext"


def test_only_so_many_metrics_with_short_names_are_kept() -> None:
    many = {f"m{number:06}": 1.0 for number in range(3000)}
    event = Task(progress=Progress(stage="s" * 10_000, metrics=many | {"n" * 200: 1.0}))
    bound_event(event)
    assert len(event.progress.metrics) == MAX_METRICS
    assert len(event.progress.stage) == 100

    event = Task(result=TaskResult(metrics={"accuracy": 0.5, "a" * 200: 1.0}))
    bound_event(event)
    assert dict(event.result.metrics) == {"accuracy": 0.5}


@pytest.mark.parametrize("snapshots", [["s"] * 1025, ["s" * 513]])
def test_a_checkpoint_no_store_could_have_is_left_out(snapshots: list[str]) -> None:
    event = Task(checkpoint=Checkpoint(step=3, snapshots=snapshots))
    bound_event(event)
    assert not event.HasField("checkpoint")


def test_the_checkpoint_of_the_largest_store_is_kept() -> None:
    checkpoint = Checkpoint(step=3, snapshots=["s" * 148] * 1024)
    event = Task(checkpoint=checkpoint)
    bound_event(event)
    assert event.checkpoint == checkpoint


def test_best_values_that_no_program_could_have_are_left_out() -> None:
    event = Task(best=Best(step=3, metric="m" * (MAX_METRIC_NAME + 1), artifact="projects/p/artifacts/a"))
    bound_event(event)
    assert not event.HasField("best")


def test_a_result_names_its_version_in_a_line() -> None:
    event = Task(result=TaskResult(version="v" * 5_000_000))
    bound_event(event)
    assert len(event.result.version) == 512


def test_an_exception_whose_text_cannot_be_made_is_told_by_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert describe(Mute()) == "Mute"
    assert describe(ValueError("x" * 10_000_000)) == f"ValueError: {'x' * MAX_MESSAGE}"
