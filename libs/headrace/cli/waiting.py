"""Wait for a job in front of the person who wants it."""

from __future__ import annotations

import typer

from headrace.cli import screen
from headrace.cli.failures import INTERRUPTED
from headrace.cli.interruption import interruptible
from headrace.cli.progress import job_display
from headrace.cli.session import session
from headrace.cli.views.jobs import outcome
from headrace.client import Client
from headrace.client.naming import short
from headrace.client.outcome import is_final, reshards
from headrace.errors import FailedPrecondition
from headrace.scheduler.v1.jobs_pb2 import Job


def submitted(context: typer.Context, client: Client, job: Job, *, detach: bool, as_json: bool) -> None:
    """Show a job that was just submitted: until it is done, or, detached, only its name."""
    if not detach:
        watched(context, client, job.name, as_json=as_json)
    elif as_json:
        screen.show_json(job)
    else:
        screen.say(f"{short(job.name)} is submitted; watch it with: {_watch(context, job.name)}")


def watched(context: typer.Context, client: Client, job: str, *, as_json: bool) -> None:
    """Show a job until it is done; Ctrl-C leaves it running.

    Raises:
        HeadraceError: Why it failed.
    """
    # Standard output then has the JSON alone.
    console = screen.err() if as_json else screen.out()
    try:
        with interruptible(client.close), job_display(console) as show:
            done = client.wait(job, on_change=show)
    except KeyboardInterrupt:
        screen.err().print(f"{short(job)} goes on; watch it again with: {_watch(context, job)}")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        screen.show_json(done)
    else:
        screen.say(f"{short(done.name)} is done: {outcome(done)}")


def resharded(client: Client, job: Job, *, as_json: bool) -> Job:
    """Say how far the shards of a job are, until it has those it shall have; return it.

    Raises:
        FailedPrecondition: It goes on, or ended, without them.
    """
    console, said, wanted = screen.err() if as_json else screen.out(), "", job.train.shards
    for now in client.watch(job):
        if now.message != said:
            console.print(f"{short(now.name)}: {now.message}")
            said = now.message
        job = now
        if not reshards(now):
            break
    if job.train.shards != wanted or is_final(job):
        raise FailedPrecondition(f"{short(job.name)} does not have {wanted} shards: {job.message}")
    return job


def _watch(context: typer.Context, job: str) -> str:
    return session(context).command("job", "watch", short(job))
