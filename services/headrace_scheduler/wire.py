"""Between the core's objects and the messages on the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.errors import InvalidArgument
from headrace.names import NodeName, PoolName
from headrace.parameters.v1 import assignment_pb2
from headrace.scheduler.v1 import cluster_pb2, deployments_pb2, jobs_pb2, nodes_pb2
from headrace.types.v1 import task_pb2
from headrace_scheduler.core import deployments, events, jobs, nodes
from headrace_scheduler.core.explain import Condition
from headrace_scheduler.core.nodes import DEFAULT_POOL
from headrace_scheduler.core.tables import Tables

MAX_SLOTS = 1024
MAX_LABELS = 64
MAX_INCARNATION = 64


def timestamp(seconds: float) -> Timestamp | None:
    """Write a time; 0 means there is none."""
    if not seconds:
        return None
    written = Timestamp()
    written.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return written


def job_message(job: jobs.Job) -> jobs_pb2.Job:
    """Write a job."""
    message = jobs_pb2.Job.FromString(job.spec)
    message.MergeFrom(
        jobs_pb2.Job(
            name=job.name,
            pool=job.pool,
            max_attempts=job.max_attempts,
            state=jobs_pb2.JobState.Value(f"JOB_STATE_{job.state}"),
            attempt=job.attempt,
            excused_attempts=job.excused,
            progress=_progress_message(job.progress) if job.progress else None,
            checkpoint=_checkpoint_message(job.checkpoint) if job.checkpoint else None,
            best=best_message(job.best) if job.best else None,
            placements=map(_placement_message, job.members),
            failure=_failure_message(job.failure) if job.failure else None,
            result=_result_message(job.result) if job.result and job.state.final else None,
            message=job.message,
            create_time=timestamp(job.create_time),
            start_time=timestamp(job.start_time),
            end_time=timestamp(job.end_time),
            revision=job.revision,
            shards=len(job.stores),
        )
    )
    if job.shards:
        message.train.shards = job.shards
    return message


def _placement_message(member: jobs.Member) -> jobs_pb2.Placement:
    role = assignment_pb2.STORE_ROLE_UNSPECIFIED
    if member.term:
        role = assignment_pb2.STORE_ROLE_REPLICA if member.replica else assignment_pb2.STORE_ROLE_PRIMARY
    return jobs_pb2.Placement(
        node=member.node,
        resource=member.resource,
        index=member.index,
        role=role,
        term=member.term,
        address=member.address,
    )


def _progress_message(progress: jobs.Progress) -> task_pb2.Progress:
    return task_pb2.Progress(
        step=progress.step, total_steps=progress.total_steps, stage=progress.stage, metrics=progress.metrics
    )


def _checkpoint_message(checkpoint: jobs.Checkpoint) -> task_pb2.Checkpoint:
    return task_pb2.Checkpoint(step=checkpoint.step, snapshots=checkpoint.snapshots)


def best_message(best: jobs.Best) -> task_pb2.Best:
    """Write the best values."""
    return task_pb2.Best(step=best.step, metric=best.metric, value=best.value, artifact=best.artifact)


def _failure_message(failure: jobs.Failure) -> task_pb2.Failure:
    return task_pb2.Failure(reason=failure.reason, message=failure.message, detail=failure.detail)


def _result_message(result: jobs.Result) -> task_pb2.TaskResult:
    return task_pb2.TaskResult(version=result.version, metrics=result.metrics, led=result.led)


def condition_message(condition: Condition) -> jobs_pb2.Condition:
    """Write a condition of a placement."""
    return jobs_pb2.Condition(
        id=condition.id,
        satisfied=condition.satisfied,
        needed=condition.needed,
        available=condition.available,
        reasons=condition.reasons,
    )


def deployment_message(deployment: deployments.Deployment) -> deployments_pb2.Deployment:
    """Write a deployment with its replicas."""
    return deployments_pb2.Deployment(
        name=deployment.name,
        version=deployment.version,
        file=deployment.file,
        replicas=deployment.replicas,
        pool=deployment.pool,
        state=deployments_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{deployment.state}"),
        resolved_version=deployment.resolved_version,
        serving=[
            deployments_pb2.Replica(node=replica.node, address=replica.address, ready=replica.ready)
            for replica in deployment.serving
        ],
        failure=_failure_message(deployment.failure) if deployment.failure else None,
        create_time=timestamp(deployment.create_time),
        update_time=timestamp(deployment.update_time),
        etag=deployment.etag,
        revision=deployment.revision,
    )


def pool_message(pool: nodes.Pool) -> cluster_pb2.Pool:
    """Write a pool."""
    return cluster_pb2.Pool(
        name=pool.name, description=pool.description, create_time=timestamp(pool.create_time)
    )


def node_message(tables: Tables, node: nodes.Node) -> cluster_pb2.Node:
    """Write a node with what was put on it."""
    work = {
        member.resource
        for job in tables.jobs.values()
        for member in (*job.members, *job.remnants)
        if member.node == node.name and not member.state.settled
    }
    models = {host.model for host in tables.hosted.values() if host.node == node.name}
    return cluster_pb2.Node(
        name=node.name,
        kind=nodes_pb2.NodeKind.Value(f"NODE_KIND_{node.kind}"),
        pool=node.pool,
        address=node.address,
        state=cluster_pb2.NodeState.Value(f"NODE_STATE_{node.state}"),
        slots=node.slots,
        work=sorted(work),
        models=sorted(models),
        incarnation=node.incarnation,
        attach_time=timestamp(node.attach_time),
        heartbeat_time=timestamp(node.heard),
        labels=node.labels,
    )


def read_hello(hello: nodes_pb2.Hello) -> nodes.Node:
    """Read who attaches.

    Raises:
        InvalidArgument: A field is not as the proto says.
    """
    kinds = {nodes_pb2.NodeKind.Value(f"NODE_KIND_{kind}"): kind for kind in nodes.NodeKind}
    for field, holds, rule in (
        (
            "incarnation",
            1 <= len(hello.incarnation) <= MAX_INCARNATION,
            f"it must have 1 to {MAX_INCARNATION} characters",
        ),
        ("kind", hello.kind in kinds, "it must say what the node does"),
        ("address", bool(hello.address), "it must be host:port, where other services reach the node"),
        ("slots", 1 <= hello.slots <= MAX_SLOTS, f"it must be 1 to {MAX_SLOTS}"),
        ("labels", len(hello.labels) <= MAX_LABELS, f"there may be at most {MAX_LABELS}"),
    ):
        if not holds:
            raise InvalidArgument(
                f"hello.{field} is {getattr(hello, field)!r}; {rule}", field=f"hello.{field}"
            )
    return nodes.Node(
        name=str(NodeName.parse(hello.node, field="hello.node")),
        kind=kinds[hello.kind],
        pool=str(PoolName.parse(hello.pool or DEFAULT_POOL, field="hello.pool")),
        address=hello.address,
        slots=hello.slots,
        incarnation=hello.incarnation,
        attach_time=0.0,
        labels=dict(hello.labels),
        recovered=tuple(
            nodes.RecoveredStore(store.name, store.epoch, store.shard_index, store.version)
            for store in hello.stores
        ),
    )


def read_report(node: nodes.Node, report: nodes_pb2.Report) -> events.NodeReported:
    """Read what a node has; a task in a state of a newer release is left out."""
    return events.NodeReported(
        name=node.name,
        incarnation=node.incarnation,
        tasks=tuple(_read_task(task) for task in report.tasks if task.state in _TASK_STATES),
        models=tuple(
            nodes.ServedModel(
                f"{model.project}/{model.model}", model.version, model.file, model.ready, model.error
            )
            for model in report.models
        ),
        leaving=report.leaving,
        silent_replicas=tuple(
            events.SilentReplica(
                silent.store,
                silent.epoch,
                silent.shard_index,
                silent.term,
                silent.replica,
                silent.silence.ToTimedelta().total_seconds(),
                silent.why,
            )
            for silent in report.silent_replicas
        ),
    )


_TASK_STATES = {task_pb2.TaskState.Value(f"TASK_STATE_{state}"): state for state in events.TaskState}


def _read_task(task: task_pb2.Task) -> events.TaskReport:
    progress, failure, best = task.progress, task.failure, task.best
    return events.TaskReport(
        name=task.name,
        state=_TASK_STATES[task.state],
        epoch=task.epoch,
        progress=jobs.Progress(progress.step, progress.total_steps, progress.stage, dict(progress.metrics))
        if task.HasField("progress")
        else None,
        checkpoint=jobs.Checkpoint(task.checkpoint.step, tuple(task.checkpoint.snapshots))
        if task.HasField("checkpoint")
        else None,
        best=jobs.Best(best.step, best.metric, best.value, best.artifact) if task.HasField("best") else None,
        failure=jobs.Failure(failure.reason, failure.message, failure.detail)
        if task.HasField("failure")
        else None,
        result=jobs.Result(task.result.version, dict(task.result.metrics), task.result.led)
        if task.HasField("result")
        else None,
        ready=task.ready,
    )
