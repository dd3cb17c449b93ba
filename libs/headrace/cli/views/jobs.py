"""Jobs for people."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cli.views.table import Table
from headrace.cli.views.values import NOTHING, between, headline, measures, moment, word
from headrace.client.naming import short
from headrace.client.outcome import reshards
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA
from headrace.scheduler.v1.jobs_pb2 import ExplainJobResponse, Job, JobState, Placement
from headrace.training.v1.workers_pb2 import Strategy


def state(job: Job) -> str:
    """Return the job's state as a word."""
    return word(JobState, job.state, "JOB_STATE_")


def kind(job: Job) -> str:
    """Return what the job does."""
    return job.WhichOneof("spec") or NOTHING


def subject(job: Job) -> str:
    """Return what the job works on: the model it trains, or the version it optimizes."""
    return short(job.train.model if job.HasField("train") else job.optimize.version) or NOTHING


def steps(job: Job) -> str:
    """Return how far the job is: "120/400"."""
    return f"{job.progress.step}/{job.progress.total_steps}" if job.progress.total_steps else NOTHING


def outcome(job: Job) -> str:
    """Return the result of a final job in a few words, else what was last said about it."""
    if job.HasField("result"):
        found = [f"best at step {job.best.step}"] if job.HasField("best") else []
        return ", ".join([short(job.result.version), *headline(job.result.metrics), *found])
    if job.HasField("failure"):
        return f"{job.failure.reason}: {job.failure.message}"
    return job.message


def progress(job: Job) -> str:
    """Return one line about how the job is doing: "training 120/400, loss 0.2134, 1,234 samples/s"."""
    if not job.progress.total_steps:
        said = job.message.startswith(state(job))
        return job.message if said else ": ".join(filter(None, [state(job), job.message]))
    stage = job.progress.stage or state(job)
    moving = [job.message] if reshards(job) else []
    return ", ".join([f"{stage} {steps(job)}", *headline(job.progress.metrics), *moving])


def best(job: Job) -> str:
    """Return the best values that a job found: "accuracy 0.9810 at step 30"; nothing if it looks for none."""
    found = job.best
    return f"{found.metric} {found.value:.4g} at step {found.step}" if job.HasField("best") else ""


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Return jobs, one per row."""
    rows = [
        [
            short(job.name),
            kind(job),
            subject(job),
            state(job),
            steps(job),
            between(job.start_time, job.end_time),
            moment(job.create_time),
            outcome(job),
        ]
        for job in jobs
    ]
    columns = ["job", "kind", "of", "state", ">step", ">took", "created", "outcome"]
    return Table(columns, rows, "no jobs yet; `headrace train --help` shows how to submit one")


def job_facts(job: Job) -> Table:
    """Return everything about one job."""
    facts = [
        ("name", job.name),
        ("kind", kind(job)),
        ("of", job.train.model if job.HasField("train") else job.optimize.version),
        ("program", _program(job)),
        ("strategy", _strategy(job)),
        ("state", state(job)),
        ("workers", _workers(job)),
        ("shards", _shards(job)),
        ("attempt", f"{job.attempt} of {(job.max_attempts or 5) + job.excused_attempts}"),
        ("progress", progress(job)),
        ("outcome", outcome(job)),
        ("created", moment(job.create_time)),
        ("started", moment(job.start_time)),
        ("ended", moment(job.end_time)),
        ("checkpoint", f"step {job.checkpoint.step}" if job.HasField("checkpoint") else ""),
        ("best", best(job)),
        *(("measure", text) for text in measures(job.result.metrics)),
        *(("placed", _placed(place)) for place in job.placements),
        *(("log", line) for line in job.failure.detail.splitlines()),
    ]
    return Table(["", ""], [fact for fact in facts if fact[1]])


def _placed(place: Placement) -> str:
    """Say what is where, of a shard with a replica which of its two processes: "stores/run on parameters-0: shard 0, primary in term 3"."""
    where = f"{short(place.resource)} on {short(place.node)}"
    roles = {
        STORE_ROLE_PRIMARY: f"primary in term {place.term}",
        STORE_ROLE_REPLICA: f"replica since term {place.term}",
    }
    return f"{where}: shard {place.index}, {roles[place.role]}" if place.role in roles else where


def _workers(job: Job) -> str:
    """Return how many workers an elastic job has, of how many it would take: "3 of 4, at least 2"."""
    if not job.train.min_workers:
        return ""
    present = sum("/tasks/" in place.resource for place in job.placements)
    return f"{present} of {job.train.workers}, at least {job.train.min_workers}"


def _shards(job: Job) -> str:
    """Return how many parameter shards a job has: "2", or "2, to be 3"."""
    wanted = f"{job.train.shards}" if job.train.shards else ""
    return f"{job.shards}, to be {wanted}" if reshards(job) else wanted


def _program(job: Job) -> str:
    program = job.train.program
    return program.module or program.archive.object


def _strategy(job: Job) -> str:
    return word(Strategy, job.train.strategy, "STRATEGY_").replace("_", "-") if job.train.strategy else ""


def explanation(answer: ExplainJobResponse) -> Table:
    """Return the conditions of a job's placement."""
    rows = [
        [
            condition.id,
            "yes" if condition.satisfied else "no",
            str(condition.needed),
            str(condition.available),
            "; ".join(condition.reasons) or NOTHING,
        ]
        for condition in answer.conditions
    ]
    return Table(["condition", "holds", ">needed", ">available", "the others"], rows)
