"""What callers ask for: each request is accepted into the tables, or refused with an error that says what to do."""

from dataclasses import replace

from headrace.errors import AlreadyExists, EtagMismatch, FailedPrecondition, NotFound
from headrace_scheduler.core.deployments import Deployment
from headrace_scheduler.core.events import (
    DeploymentCreated,
    DeploymentDeleted,
    DeploymentUpdated,
    Event,
    JobCancelled,
    JobDeleted,
    JobResharded,
    JobSubmitted,
    NodeDrained,
    PoolCreated,
    PoolDeleted,
)
from headrace_scheduler.core.jobs import Job, JobState, MemberState
from headrace_scheduler.core.lifecycle import cancelled, settled
from headrace_scheduler.core.nodes import DEFAULT_POOL, Pool
from headrace_scheduler.core.resharding import wished
from headrace_scheduler.core.tables import Tables


def accept(tables: Tables, event: Event, sequence: int, now: float) -> int:
    """Take a request in; return the greatest sequence number given out.

    Raises:
        HeadraceError: It is refused.
    """
    match event:
        case JobSubmitted(job):
            _submit(tables, replace(job, sequence=sequence + 1))
            return sequence + 1
        case DeploymentCreated(deployment):
            _deploy(tables, replace(deployment, sequence=sequence + 1))
            return sequence + 1
    _change(tables, event, now)
    return sequence


def _change(tables: Tables, event: Event, now: float) -> None:
    """Take in a request that concerns what is there."""
    match event:
        case JobCancelled(name):
            tables.put_job(settled(cancelled(_job(tables, name), now), now))
        case JobResharded():
            _reshard(tables, event)
        case JobDeleted(name):
            _delete_job(tables, name, now)
        case DeploymentUpdated():
            _update(tables, event, now)
        case DeploymentDeleted(name, etag):
            _checked(tables, name, etag)
            tables.deployments.remove(name)
        case PoolCreated(pool):
            _create_pool(tables, pool)
        case PoolDeleted(name):
            _delete_pool(tables, name)
        case NodeDrained(name, drained):
            _drain(tables, name, drained)
        case _:
            raise AssertionError(f"{type(event).__name__} is not a request")


def _job(tables: Tables, name: str) -> Job:
    if name not in tables.jobs or tables.jobs[name].deleted:
        raise NotFound(f"there is no {name}; list the jobs to see which there are")
    return tables.jobs[name]


def _submit(tables: Tables, job: Job) -> None:
    if job.name in tables.jobs:
        raise AlreadyExists(f"{job.name} exists already; choose another job_id, or leave it empty")
    _check_pool(tables, job.pool, "job.pool")
    tables.put_job(job)


def _reshard(tables: Tables, event: JobResharded) -> None:
    job = _job(tables, event.name)
    if job.state.final or job.state is JobState.CANCELLING:
        raise FailedPrecondition(
            f"{event.name} is {job.state}; only a job that waits or runs has shards to change"
        )
    tables.put_job(wished(job, event.shards))


def _check_pool(tables: Tables, pool: str, field: str) -> None:
    if pool not in tables.pools:
        raise NotFound(f"there is no {pool}; create it, or use {DEFAULT_POOL}", field=field)


def _delete_job(tables: Tables, name: str, now: float) -> None:
    job = _job(tables, name)
    if not job.state.final:
        raise FailedPrecondition(f"{name} is {job.state}; cancel it first and wait until it has ended")
    given_up = [m for m in (*job.members, *job.remnants) if m.state is MemberState.LOST]
    for member in given_up:
        job = job.with_member(member.to(MemberState.GONE, now))
    tables.put_job(replace(job, deleted=True))


def _deploy(tables: Tables, deployment: Deployment) -> None:
    if deployment.name in tables.deployments:
        raise AlreadyExists(f"{deployment.name} exists already; update it, or choose another deployment_id")
    _check_pool(tables, deployment.pool, "deployment.pool")
    tables.put_deployment(deployment)


def _checked(tables: Tables, name: str, etag: str) -> Deployment:
    """Find the deployment the caller has seen."""
    deployment = tables.deployments.get(name)
    if deployment is None:
        raise NotFound(f"there is no {name}; list the deployments to see which there are")
    if etag and etag != deployment.etag:
        raise EtagMismatch(
            f"{name} has etag {deployment.etag!r} now, not {etag!r}; get it again and repeat the change",
            metadata={"etag": deployment.etag},
        )
    return deployment


def _update(tables: Tables, event: DeploymentUpdated, now: float) -> None:
    deployment = _checked(tables, event.name, event.etag)
    tables.put_deployment(
        replace(
            deployment,
            version=event.version,
            file=event.file,
            replicas=event.replicas,
            resolved_version=event.resolved_version,
            resolved_file=event.resolved_file,
            generation=deployment.generation + 1,
            update_time=now,
            failure=None,  # a new wish is a new chance
        )
    )


def _create_pool(tables: Tables, pool: Pool) -> None:
    if pool.name in tables.pools:
        raise AlreadyExists(f"{pool.name} exists already; choose another pool_id")
    tables.pools.put(pool.name, pool)


def _delete_pool(tables: Tables, name: str) -> None:
    if name not in tables.pools:
        raise NotFound(f"there is no {name}; list the pools to see which there are")
    if name == DEFAULT_POOL:
        raise FailedPrecondition(f"{name} is always there; delete another pool")
    users = [node.name for node in tables.nodes.values() if node.pool == name]
    users += [job.name for job in tables.jobs.values() if job.pool == name and not job.state.final]
    users += [deployment.name for deployment in tables.deployments.values() if deployment.pool == name]
    if users:
        raise FailedPrecondition(
            f"{name} is used by {', '.join(users[:5])}{' and others' if len(users) > 5 else ''}; move or end them first"
        )
    tables.pools.remove(name)


def _drain(tables: Tables, name: str, drained: bool) -> None:
    if name not in tables.nodes:
        raise NotFound(f"there is no {name}; list the nodes to see which there are")
    tables.nodes.put(name, replace(tables.nodes[name], drained=drained))
