"""`headrace job logs`, `metrics`, `stacks` and `profile`: what can be seen of a job's tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.jobs import JobName
from headrace.cli.options import AsJson
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


def metrics(
    context: typer.Context,
    job: JobName,
    rank: Rank = 0,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this measure; may be repeated.", show_default=False)
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the curves in the terminal.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves into a PNG file.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a worker measured over the steps of a job, all its attempts together."""
    from headrace.cli import screen
    from headrace.cli.views.curves import chosen, curves_data, curves_table, drawn

    with connected(context) as client:
        curves = chosen(client.inspection.metrics(client.job(job), rank=rank), metric or [])
    if png:
        from headrace.cli.views.picture import write_png

        write_png(curves, png, title=job)
    if as_json:
        screen.show_json(curves_data(curves))
    elif plot:
        for line in drawn(curves, screen.out().width if sys.stdout.isatty() else 80):
            screen.say(line)
    elif not png:
        screen.show(curves_table(curves))


def stacks(context: typer.Context, job: JobName, rank: Rank = 0, as_json: AsJson = False) -> None:
    """Print where each thread of a running worker is: what does it wait for?"""
    from headrace.cli import screen

    with connected(context) as client:
        found = client.inspection.stacks(client.job(job), rank=rank)
    if as_json:
        screen.show_json(found)
        return
    for line in found.text.splitlines():
        screen.say(line)


def profile(
    context: typer.Context,
    job: JobName,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Where the trace goes; gzipped if it ends in .gz.", dir_okay=False),
    ] = Path("trace.json"),
    rank: Rank = 0,
    steps: Annotated[int, typer.Option(help="Steps to record.", min=1, max=100)] = 5,
) -> None:
    """Record the next steps of a running worker; chrome://tracing and ui.perfetto.dev show the trace."""
    import gzip

    from headrace.cli import screen

    with connected(context) as client:
        trace = client.inspection.profile(client.job(job), rank=rank, steps=steps)
    out.write_bytes(trace if out.suffix == ".gz" else gzip.decompress(trace))
    screen.say(f"{steps} steps of worker {rank} are in {out}; open it in chrome://tracing or ui.perfetto.dev")
