"""Short names, as people say them, to resource names: "digits@stable" in a project becomes the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import DeploymentName, JobName, ModelName, NodeName, PoolName, TaskName

if TYPE_CHECKING:
    from headrace.scheduler.v1.jobs_pb2 import Job


def model_name(project: str, model: str) -> str:
    """Return the full name of `model`, which may be one already."""
    return str(ModelName.parse(model) if "/" in model else ModelName(project, model))


def job_name(project: str, job: str) -> str:
    """Return the full name of `job`, which may be one already."""
    return str(JobName.parse(job) if "/" in job else JobName(project, job))


def task_name(job: Job, attempt: int, rank: int) -> str:
    """Return the name of the task that runs, or ran, a rank of the job in an attempt.

    Raises:
        FailedPrecondition: The job has not begun: `attempt` is 0.
    """
    if not attempt:
        raise FailedPrecondition(f"{short(job.name)} has not begun, so there is nothing to see of it yet")
    return str(TaskName.of_job(JobName.parse(job.name), attempt, job.WhichOneof("spec") or "", rank))


def deployment_name(project: str, deployment: str) -> str:
    """Return the full name of `deployment`, which may be one already."""
    return str(DeploymentName.parse(deployment) if "/" in deployment else DeploymentName(project, deployment))


def node_name(node: str) -> str:
    """Return the full name of `node`, which may be one already."""
    return str(NodeName.parse(node) if "/" in node else NodeName(node))


def version_name(project: str, version: str) -> str:
    """Return the full name for "digits" (its newest version), "digits@stable", "digits/3", or a full name.

    Raises:
        InvalidArgument: It is none of them.
    """
    if version.startswith("projects/"):
        return version
    model, slash, number = version.partition("/")
    model, at, alias = model.partition("@")
    name = ModelName(project, model)
    if not slash:
        return str(name.alias(alias if at else "latest"))
    if at or not number.isdecimal() or int(number) < 1:
        raise InvalidArgument(
            f"version {version!r} cannot be read; say it like digits, digits@stable or digits/3",
            field="version",
        )
    return str(name.version(int(number)))


def pool_name(pool: str) -> str:
    """Return the full name of `pool`, which may be one already; empty stays empty, the default pool."""
    return pool and str(PoolName.parse(pool) if "/" in pool else PoolName(pool))


def short(name: str) -> str:
    """Return how a person says the resource: "digits/3" for a version, else the last part of its name."""
    parts = name.split("/")
    return f"{parts[-3]}/{parts[-1]}" if parts[-2:-1] == ["versions"] else parts[-1]
