"""How work ended: final states, and the error that a failure is raised as."""

from __future__ import annotations

from headrace.errors import Cancelled, Code, HeadraceError, error_class
from headrace.scheduler.v1 import deployments_pb2 as deployments
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.types.v1 import task_pb2

_FINAL = (jobs.JOB_STATE_SUCCEEDED, jobs.JOB_STATE_FAILED, jobs.JOB_STATE_CANCELLED)


def is_final(job: jobs.Job) -> bool:
    """Tell whether the job will never change again."""
    return job.state in _FINAL


def reshards(job: jobs.Job) -> bool:
    """Tell whether shards are still to join a job that is there, or to leave it."""
    there = job.state in (jobs.JOB_STATE_STARTING, jobs.JOB_STATE_RUNNING)
    return there and job.shards != job.train.shards


def succeeded(job: jobs.Job) -> jobs.Job:
    """Return a final job that succeeded; raise what another one failed with.

    Raises:
        HeadraceError: The job failed: the class its reason stands for, with the end of the log in `metadata["detail"]`.
        Cancelled: The job was cancelled.
    """
    if job.state == jobs.JOB_STATE_FAILED:
        raise failure(job.name, job.failure)
    if job.state == jobs.JOB_STATE_CANCELLED:
        raise Cancelled(f"{job.name} was cancelled; submit it again to run it", metadata={"job": job.name})
    return job


def serving(deployment: deployments.Deployment) -> bool:
    """Tell whether all replicas serve the wished version.

    Raises:
        HeadraceError: The version cannot be served: the class its reason stands for.
    """
    if deployment.state == deployments.DEPLOYMENT_STATE_FAILED:
        raise failure(deployment.name, deployment.failure)
    return deployment.state == deployments.DEPLOYMENT_STATE_READY


def waits(change: deployments.WatchDeploymentResponse) -> str:
    """As `shortfall`, of the deployment that changed."""
    return shortfall(change.deployment)


def shortfall(deployment: deployments.Deployment) -> str:
    """Say how many replicas are ready, and what to do if there are not enough nodes; empty if it is served or has failed."""
    if deployment.state != deployments.DEPLOYMENT_STATE_PROGRESSING:
        return ""
    wanted, placed = max(deployment.replicas, 1), len(deployment.serving)
    ready = sum(replica.ready for replica in deployment.serving)
    said = f"{ready} of {wanted} replica{'s are' if wanted > 1 else ' is'} ready"
    if placed >= wanted:
        return said
    nodes = (
        f"only {placed} inference node{' has' if placed == 1 else 's have'}"
        if placed
        else "no inference node has"
    )
    pool = deployment.pool or "pools/default"
    return f"{said}; {nodes} room for it in {pool}, start {wanted - placed} more"


def failure(name: str, cause: task_pb2.Failure) -> HeadraceError:
    """Return the error that stands for why `name` failed; a reason we do not know is a FAILED_PRECONDITION."""
    metadata = {"resource": name, "reason": cause.reason}
    if cause.detail:
        metadata["detail"] = cause.detail
    return error_class(cause.reason, Code.FAILED_PRECONDITION)(
        f"{name} failed: {cause.message}", metadata=metadata
    )
