"""Nodes: how they come, report, and are lost, and what that does to the work they have."""

from collections.abc import Iterable
from dataclasses import replace

from headrace.errors import NotFound, StaleEpoch
from headrace_scheduler.core import reasons, replicas, serving
from headrace_scheduler.core.events import NodeDetached, NodeReported, SilentReplica, TaskReport
from headrace_scheduler.core.jobs import Failure, Job, Member, MemberState, job_of_task
from headrace_scheduler.core.lifecycle import leaving, member_lost, members_on
from headrace_scheduler.core.lifecycle import reported as task_reported
from headrace_scheduler.core.nodes import Node
from headrace_scheduler.core.recovery import store_recovered
from headrace_scheduler.core.tables import Tables

REMEMBERED_INCARNATIONS = 8  # a thawed process older than eight restarts of its node is not expected
# A node that has been lost for an hour is no longer listed, unless somebody drained it.
FORGET_LOST_S = 3600.0


def attached(tables: Tables, node: Node, now: float) -> None:
    """Give a process the lease of its node.

    Raises:
        NotFound: There is no such pool.
        StaleEpoch: A newer process of the node has attached.
    """
    if node.pool not in tables.pools:
        raise NotFound(
            f"there is no {node.pool}; create it, or start the node in another pool", field="hello.pool"
        )
    old = tables.nodes.get(node.name)
    if old is None:
        tables.nodes.put(node.name, _welcomed(node, node, now))
        return
    if node.incarnation in old.superseded:
        raise StaleEpoch(
            f"a newer process of {node.name} has attached; end this one, or give it another node id"
        )
    tables.nodes.put(node.name, _welcomed(node, old, now))
    if node.incarnation != old.incarnation:
        _take_recovered(tables, old, node, now)
        _lose_work(tables, old, MemberState.GONE, f"node {_id(old)} was restarted", now)


def _take_recovered(tables: Tables, old: Node, node: Node, now: float) -> None:
    """Move to the new process of a node the stores that it has recovered from the old one."""
    recovered = {(store.name, store.epoch, store.shard_index): store for store in node.recovered}
    for job, member in members_on(list(tables.jobs.values()), old.name, old.incarnation):
        store = recovered.get((member.resource, member.epoch, member.index))
        if store and not member.task:
            where = f"node {_id(node)} was restarted and has shard {member.index} at version {store.version}"
            moved = replace(member, incarnation=node.incarnation, address=node.address)
            tables.put_job(store_recovered(tables.jobs[job.name], member, moved, where, now))


def _welcomed(node: Node, old: Node, now: float) -> Node:
    same = node.incarnation == old.incarnation
    superseded = old.superseded if same else (*old.superseded, old.incarnation)[-REMEMBERED_INCARNATIONS:]
    return replace(
        node,
        heard=now,
        connected=True,
        lost=False,
        drained=old.drained,
        superseded=superseded,
        attach_time=old.attach_time if same else now,
        active_tasks=old.active_tasks if same else frozenset(),
        models=old.models if same else (),
        leaving=old.leaving and same,
    )


def detached(tables: Tables, event: NodeDetached, now: float) -> None:
    """Take note that a node's call has ended; a process that said it was leaving is gone with it."""
    node = tables.nodes.get(event.name)
    if node is None or node.incarnation != event.incarnation:
        return
    tables.nodes.put(node.name, replace(node, connected=False))
    if node.leaving:
        _lose(tables, node.name, f"node {_id(node)} has shut down", now)


def grant(tables: Tables, seconds: float) -> None:
    """Make every lease longer by the time in which nobody could renew it."""
    for node in list(tables.nodes.values()):
        tables.nodes.put(node.name, replace(node, heard=node.heard + seconds))


def expire(tables: Tables, now: float, lease_s: float) -> None:
    """End the leases that nobody renewed; forget nodes that were lost long ago."""
    for node in list(tables.nodes.values()):
        if not node.lost and now - node.heard > lease_s:
            _lose(tables, node.name, f"node {_id(node)} was lost: nothing heard for {lease_s:g} s", now)
        elif node.lost and not node.drained and now - node.heard > FORGET_LOST_S:
            _lose_work(tables, node, MemberState.GONE, f"node {_id(node)} was lost", now)
            tables.nodes.remove(node.name)


def _lose(tables: Tables, name: str, why: str, now: float) -> None:
    node = tables.nodes[name]
    tables.nodes.put(name, replace(node, lost=True, connected=False, active_tasks=frozenset(), models=()))
    _lose_work(tables, node, MemberState.LOST, why, now)


def _excuse(tables: Tables, node: Node) -> None:
    """Let the end of the node's process cost no job an attempt."""
    for job, member in members_on(list(tables.jobs.values()), node.name, node.incarnation):
        tables.put_job(leaving(tables.jobs[job.name], member))


def _lose_work(tables: Tables, node: Node, state: MemberState, why: str, now: float) -> None:
    if node.drained:  # whoever drained it meant to end it
        _excuse(tables, node)
    for job, member in members_on(list(tables.jobs.values()), node.name, node.incarnation):
        failure = Failure(reasons.NODE_LOST, why)
        tables.put_job(member_lost(tables.jobs[job.name], member, state, failure, now))


def abandoned(tables: Tables) -> list[str]:
    """List the nodes whose process was lost or replaced in this event: nothing asked of it counts any more."""
    return [
        change.key
        for change in tables.nodes.changes()
        if change.old is not None
        and (
            change.new is None
            or change.new.incarnation != change.old.incarnation
            or (change.new.lost and not change.old.lost)
        )
    ]


def reported(
    tables: Tables, report: NodeReported, now: float, lease_s: float, replica_patience_s: float
) -> list[str]:
    """Renew a lease and take over what the node says; return the final tasks it may forget.

    Args:
        replica_patience_s: For how long a replica may be silent to its primary.
    Raises:
        StaleEpoch: The node's lease was lost or taken over meanwhile; attach again.
    """
    node = tables.nodes.get(report.name)
    if node is None or node.incarnation != report.incarnation or node.lost:
        raise StaleEpoch(f"this process does not hold the lease of {report.name} any more; attach again")
    node = replace(
        node,
        heard=now,
        connected=True,
        leaving=report.leaving,
        active_tasks=frozenset(task.name for task in report.tasks if not task.state.final),
        models=report.models,
    )
    tables.nodes.put(node.name, node)
    if node.leaving:
        _excuse(tables, node)
    _take_tasks(tables, node, report.tasks, now, lease_s)
    for silent in report.silent_replicas:
        if silent.silence_s > replica_patience_s:
            _take_silent(tables, node, silent, now)
    serving.reported(tables, node, now, lease_s)
    return [task.name for task in report.tasks if task.state.final and job_of_task(task.name)]


def _take_tasks(tables: Tables, node: Node, tasks: Iterable[TaskReport], now: float, lease_s: float) -> None:
    """Compare what jobs think is on the node with what it says."""
    by_name = {task.name: task for task in tasks}
    for job, member in members_on(list(tables.jobs.values()), node.name, node.incarnation):
        if member.task:
            task = by_name.get(member.resource)
            tables.put_job(_take_task(tables.jobs[job.name], member, task, now, lease_s))


def _take_silent(tables: Tables, node: Node, silent: SilentReplica, now: float) -> None:
    for job, member in members_on(list(tables.jobs.values()), node.name, node.incarnation):
        if member in job.primaries:
            tables.put_job(replicas.without_silent(tables.jobs[job.name], member, silent, now))


def _take_task(job: Job, member: Member, task: TaskReport | None, now: float, lease_s: float) -> Job:
    if task is None:
        return _missing(job, member, now, lease_s)
    if member in job.members:
        return task_reported(job, member, task, now)
    return job.with_member(member.to(MemberState.GONE, now)) if task.state.final else job


def _missing(job: Job, member: Member, now: float, lease_s: float) -> Job:
    """Treat a task as gone that its node has accepted and knows no more; a report may be older than the answer by a moment."""
    accepted = member.state in (MemberState.HELD, MemberState.RUNNING)
    if not accepted or now - member.since <= lease_s:
        return job
    failure = Failure(reasons.TASK_CRASHED, f"{member.node} no longer knows {member.resource}")
    return member_lost(job, member, MemberState.GONE, failure, now)


def _id(node: Node) -> str:
    return node.name.removeprefix("nodes/")
