"""Which nodes to ask about a task."""

from headrace_scheduler.core.jobs import Job, JobKind
from headrace_scheduler.core.tables import Tables


def places_of_task(tables: Tables, task: str, job: Job | None) -> list[str]:
    """Return the addresses of the attached nodes that may have run a task, the one it was placed on first.

    Args:
        job: That it belongs to; None if nothing is known of it.
    """
    members = (*job.members, *job.remnants) if job else ()
    placed = {member.node for member in members if member.resource == task}
    kinds = {job.kind.task_node} if job else {kind.task_node for kind in JobKind}
    nodes = [node for node in tables.nodes.values() if node.kind in kinds and not node.lost]
    return [node.address for node in sorted(nodes, key=lambda node: (node.name not in placed, node.name))]
