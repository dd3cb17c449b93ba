"""A job while it runs: a live display on a terminal, a line now and then in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.cli.views.jobs import kind, progress
from headrace.client.naming import short
from headrace.scheduler.v1.jobs_pb2 import Job

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EVERY_S = 2.0  # at most one line in that time, unless the state changes

_NAME_WIDTH = len("optimize optimize-01234567")
_BAR_WIDTH = 16
_TIME_WIDTH = len("0:00:00")

OnJob = Callable[[Job], None]


@contextmanager
def job_display(console: Console) -> Iterator[OnJob]:
    """Give a function that shows the job it is called with: what changes at the same place, or a line each time."""
    if not console.is_terminal:
        yield PlainDisplay(console.print)
        return
    with _bars(console) as bars:
        yield _live(bars)


def _bars(console: Console) -> Progress:
    """Return the display: only its last column, what the job is doing, gives way on a narrow terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=_NAME_WIDTH)),
        BarColumn(bar_width=None, table_column=Column(min_width=_BAR_WIDTH, max_width=_BAR_WIDTH)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=_TIME_WIDTH)),
        TextColumn("{task.fields[doing]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        console=console,
        expand=True,
    )


class PlainDisplay:
    """Writes a line when the job's state or message changes, and else at most every `EVERY_S` seconds."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last: tuple[str, int, str, str] | None = None
        self._line = ""
        self._next = 0.0

    def __call__(self, job: Job) -> None:
        """Show the job, if it is time."""
        last = (job.name, job.state, job.message, job.progress.stage)
        line = f"{short(job.name)}: {progress(job)}"
        if line == self._line or (last == self._last and self._clock() < self._next):
            return
        self._write(line)
        self._line, self._last, self._next = line, last, self._clock() + EVERY_S


def _live(bars: Progress) -> OnJob:
    """Return a function that keeps one bar per job."""
    tasks: dict[str, TaskID] = {}

    def show(job: Job) -> None:
        if job.name not in tasks:
            tasks[job.name] = bars.add_task(f"{kind(job)} {short(job.name)}", total=None, doing="")
        bars.update(
            tasks[job.name],
            total=job.progress.total_steps or None,
            completed=job.progress.step,
            doing=progress(job),
        )

    return show
