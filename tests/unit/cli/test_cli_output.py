"""How tables, JSON and progress reach a file."""

import io
import json

import pytest
from rich.console import Console

from headrace.cli import screen
from headrace.cli.progress import EVERY_S, PlainDisplay, job_display
from headrace.cli.views.table import Table
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.testing import FakeClock
from headrace.types.v1.task_pb2 import Progress


def running(
    step: int, *, message: str = "", state: "jobs.JobState.ValueType" = jobs.JOB_STATE_RUNNING
) -> jobs.Job:
    progress = Progress(step=step, total_steps=400, stage="training")
    return jobs.Job(name="projects/default/jobs/run-1", state=state, message=message, progress=progress)


def test_a_table_in_a_file_has_no_colours_and_no_cut_columns(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300

    screen.show(Table(["name", ">count", "text"], [["a", "1", long], ["bb", "20", "[red]as it is[/red]"]]))

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["NAME", "COUNT", "TEXT"],
        ["a", "1", long],
        ["bb", "20", "[red]as", "it", "is[/red]"],
    ]


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show(Table(["name"], [], "no jobs yet"))

    assert capsys.readouterr().out == "no jobs yet\n"


def test_json_has_the_names_of_the_protos_and_every_plain_field(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_json([jobs.Job(name="projects/default/jobs/run-1", state=jobs.JOB_STATE_QUEUED)])

    (job,) = json.loads(capsys.readouterr().out)
    assert job["state"] == "JOB_STATE_QUEUED"
    assert job["max_attempts"] == 0
    assert job["placements"] == []
    assert job["revision"] == "0", "proto JSON: 64-bit integers are strings"
    assert "create_time" not in job, "a message that is unset is left out"


def test_progress_in_a_file_is_a_line_now_and_then() -> None:
    lines: list[str] = []
    clock = FakeClock()
    show = PlainDisplay(lines.append, clock)

    for step in range(0, 400, 10):
        show(running(step))
        clock.advance(EVERY_S / 8)

    assert lines == [f"run-1: training {step}/400" for step in (0, 80, 160, 240, 320)]


def test_a_change_of_state_or_message_is_told_at_once() -> None:
    lines: list[str] = []
    show = PlainDisplay(lines.append, FakeClock())

    show(jobs.Job(name="projects/default/jobs/run-1", state=jobs.JOB_STATE_QUEUED))
    show(running(0))
    show(running(10))
    show(running(20, message="queued again: node training-1 was lost", state=jobs.JOB_STATE_QUEUED))

    assert lines == ["run-1: queued", "run-1: training 0/400", "run-1: training 20/400"]


def test_a_terminal_gets_one_bar_that_moves() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=120)

    with job_display(console) as show:
        show(running(10))
        show(running(400))

    assert "training 400/400" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
