"""`headrace jobs` and `headrace job ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import AsJson
from headrace.cli.session import connected

JobName = Annotated[str, typer.Argument(help="Name of the job.")]


def jobs(context: typer.Context, as_json: AsJson = False) -> None:
    """List the jobs, newest first."""
    from headrace.cli import screen
    from headrace.cli.views.jobs import jobs_table

    with connected(context) as client:
        found = client.list_jobs()
    if as_json:
        screen.show_json(found)
    else:
        screen.show(jobs_table(found))


def show(context: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Show everything about a job."""
    from headrace.cli import screen
    from headrace.cli.views.jobs import job_facts

    with connected(context) as client:
        found = client.job(job)
    if as_json:
        screen.show_json(found)
    else:
        screen.show(job_facts(found))


def watch(context: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Show a job's progress until it is done; fail as it fails. Ctrl-C leaves it running."""
    from headrace.cli.waiting import watched

    with connected(context) as client:
        found = client.job(job)  # a wait would bear with a scheduler that is not there, for a while
        watched(context, client, found.name, as_json=as_json)


def cancel(context: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Ask a job to end."""
    from headrace.cli import screen
    from headrace.cli.views.jobs import state

    with connected(context) as client:
        found = client.cancel(job)
    if as_json:
        screen.show_json(found)
    else:
        screen.say(f"{job} is {state(found)}")


def reshard(
    context: typer.Context,
    job: JobName,
    shards: Annotated[int, typer.Option(help="How many parameter shards it shall have.")],
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until it has them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a job have more or fewer parameter shards, while it trains. Ctrl-C does not stop that."""
    from headrace.cli import screen
    from headrace.cli.waiting import resharded

    with connected(context) as client:
        found = client.reshard(job, shards)
        if not detach:
            found = resharded(client, found, as_json=as_json)
    if as_json:
        screen.show_json(found)
    elif detach:
        screen.say(found.message)


def explain(context: typer.Context, job: JobName, as_json: AsJson = False) -> None:
    """Say why a job waits."""
    from headrace.cli import screen
    from headrace.cli.views.jobs import explanation

    with connected(context) as client:
        answer = client.explain(job)
    if as_json:
        screen.show_json(answer)
        return
    screen.say(answer.summary)
    if answer.conditions:
        screen.show(explanation(answer))
