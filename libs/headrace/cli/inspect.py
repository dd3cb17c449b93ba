"""`headrace job logs`: what can be seen of a job's tasks."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headrace.cli.jobs import JobName
from headrace.cli.session import connected

Rank = Annotated[int, typer.Option(help="Which worker: 0 to the number of workers - 1.", min=0)]
Attempt = Annotated[int, typer.Option(help="Which attempt of the job; 0: the latest.", min=0)]


def logs(
    context: typer.Context,
    job: JobName,
    rank: Rank = 0,
    attempt: Attempt = 0,
    tail: Annotated[int, typer.Option(help="Only the last so many lines; 0: all that is kept.", min=0)] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is done, through all its attempts.")
    ] = False,
) -> None:
    """Print what a worker printed: its standard output and standard error, also of attempts that have ended."""
    with connected(context) as client:
        found = client.job(job)
        if follow:
            parts = client.inspection.follow_log(found, rank=rank, tail_lines=tail)
        else:
            parts = client.inspection.log(found, rank=rank, attempt=attempt, tail_lines=tail)
        for data in parts:
            # Bytes, as they were printed: a part may end within a character.
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
