"""Which nodes a job gets: all it needs, or none.

The queue is strict: in a pool, the oldest job of a kind (train, optimize) that could ever fit on the nodes that are there
is placed first, and the younger ones wait behind it, so a wide gang is never starved by narrow ones. Two sorts of job let
others pass: one that pauses after a failed attempt, and one that would not fit even if all its nodes were idle.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from headrace_scheduler.core import replicas
from headrace_scheduler.core.elastic import wants_more
from headrace_scheduler.core.jobs import Job, JobKind, JobState, Member, store_name, task_name
from headrace_scheduler.core.nodes import Node, NodeKind
from headrace_scheduler.core.resharding import joining
from headrace_scheduler.core.tables import Tables


@dataclass(frozen=True)
class Demand:
    """How many slots a job needs on nodes of one kind, and how many it would take.

    Shards of a store, and their replicas, must be on different nodes, and are better on different machines.
    """

    kind: NodeKind
    count: int
    distinct: bool
    most: int

    def capacity(self, slots: int) -> int:
        """Return how many of the parts a node with `slots` slots can take."""
        return min(slots, 1) if self.distinct else slots


def demands(job: Job) -> tuple[Demand, ...]:
    """List what a job needs, in the order it is checked."""
    tasks = Demand(job.kind.task_node, job.min_workers or job.workers, distinct=False, most=job.workers)
    if not job.shards:
        return (tasks,)
    stores = 2 * job.shards if job.replicated else job.shards
    return (Demand(NodeKind.PARAMETERS, stores, distinct=True, most=stores), tasks)


@dataclass(frozen=True)
class Usage:
    """What occupies the slots of each node: the resources by name, and the job each belongs to (or nothing)."""

    holders: dict[str, dict[str, str]]

    @classmethod
    def of(cls, tables: Tables) -> "Usage":
        """Count what is placed, what former attempts may still hold, and what the nodes themselves report."""
        holders: dict[str, dict[str, str]] = {name: {} for name in tables.nodes}
        for node in tables.nodes.values():
            holders[node.name] |= dict.fromkeys(node.active_tasks, "")
        for job in tables.jobs.values():
            for member in (*job.members, *job.remnants):
                if not member.state.settled and member.node in holders:
                    holders[member.node][_occupant(member)] = job.name
        return cls(holders)

    def busy_with(self, node: Node) -> str:
        """Say who has its slots, for people."""
        names = sorted({job or task for task, job in self.holders[node.name].items()})
        return f"busy with {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    def free(self, node: Node) -> int:
        """Return the free slots of a node, 0 or more."""
        return max(0, node.slots - len(self.holders[node.name]))


def _occupant(member: Member) -> str:
    # A task is counted once, although its node reports it too; stores of different attempts share a name.
    return member.resource if member.task else f"{member.resource} of attempt {member.epoch}"


def place(tables: Tables, job: Job, now: float, lease_s: float) -> tuple[Member, ...] | None:
    """Choose a node for every store and task of the job's next attempt; None if it cannot have all that it needs now."""
    usage = Usage.of(tables)
    chosen = [_choose(tables, job, demand, usage, now, lease_s) for demand in demands(job)]
    if any(nodes is None for nodes in chosen):
        return None
    *stores, tasks = (nodes or [] for nodes in chosen)
    epoch = job.attempt + 1
    return (
        *(store for nodes in stores for store in _stores(job, epoch, nodes, now)),
        *(_member(job, epoch, True, rank, node, now) for rank, node in enumerate(tasks)),
    )


def _stores(job: Job, epoch: int, nodes: list[Node], now: float) -> list[Member]:
    if not job.replicated:
        return [_member(job, epoch, False, shard, node, now) for shard, node in enumerate(nodes)]
    pairs = list(enumerate(_pairs(nodes)))
    term = replicas.FIRST_TERM
    primaries = [_member(job, epoch, False, shard, pair[0], now) for shard, pair in pairs]
    followers = [_member(job, epoch, False, shard, pair[1], now) for shard, pair in pairs]
    return [
        *(replace(primary, term=term, told=term) for primary in primaries),  # it is made so
        *(replace(follower, term=term, replica=True) for follower in followers),
    ]


def _pairs(nodes: list[Node]) -> list[tuple[Node, Node]]:
    """Pair nodes so that as many pairs as can be are of two machines, and neither machine has all the firsts."""
    # Neighbours are of one machine, and half of the row lies between the two of a pair.
    crowds = Counter(node.machine for node in nodes)
    row = sorted(nodes, key=lambda node: (-crowds[node.machine], node.machine))
    half = len(row) // 2
    pairs = list(zip(row[:half], row[half:], strict=True))
    return [pair if shard % 2 == 0 else pair[::-1] for shard, pair in enumerate(pairs)]


def _choose(
    tables: Tables,
    job: Job,
    demand: Demand,
    usage: Usage,
    now: float,
    lease_s: float,
    avoided: Collection[str] = (),
    machines: Sequence[str] = (),
) -> list[Node] | None:
    """Take the freest node again and again, of parameter nodes one of the machine with the fewest.

    Args:
        machines: That have some of the job's already.
    """
    there = (node for node in in_pool(tables, job, demand) if node.name not in avoided)
    nodes = [node for node in there if not node.refusal(now, lease_s)]
    left = {node.name: demand.capacity(usage.free(node)) for node in nodes}
    if sum(left.values()) < demand.count:
        return None
    crowds = Counter(machines)
    chosen = []
    for _ in range(min(demand.most, sum(left.values()))):
        node = min(
            nodes, key=lambda node: (-left[node.name], crowds[node.machine], -usage.free(node), node.name)
        )
        left[node.name] -= 1
        crowds[node.machine] += demand.distinct
        chosen.append(node)
    return chosen


def in_pool(tables: Tables, job: Job, demand: Demand) -> list[Node]:
    """List the nodes of the job's pool that do this kind of work."""
    return [node for node in tables.nodes.values() if node.kind is demand.kind and node.pool == job.pool]


def _member(job: Job, epoch: int, task: bool, index: int, node: Node, now: float) -> Member:
    resource = task_name(job.name, epoch, job.kind, index) if task else store_name(job.name)
    return Member(resource, task, index, epoch, node.name, node.incarnation, node.address, since=now)


def could_ever_fit(tables: Tables, job: Job, now: float, lease_s: float) -> bool:
    """Tell whether the nodes that take work now would hold the job if all of them were idle."""
    return all(
        sum(
            demand.capacity(node.slots)
            for node in in_pool(tables, job, demand)
            if not node.refusal(now, lease_s)
        )
        >= demand.count
        for demand in demands(job)
    )


def queue(tables: Tables, pool: str, kind: JobKind) -> list[Job]:
    """List the jobs that wait in one queue, oldest first."""
    waiting = [
        job
        for job in tables.jobs.values()
        if job.state is JobState.QUEUED and job.pool == pool and job.kind is kind
    ]
    return sorted(waiting, key=lambda job: job.sequence)


def next_jobs(tables: Tables, now: float, lease_s: float) -> Iterator[tuple[Job, tuple[Member, ...]]]:
    """Find the jobs to start now, each with its members; the caller stores each before the next is asked for."""
    queues = {(job.pool, job.kind) for job in tables.jobs.values() if job.state is JobState.QUEUED}
    for pool, kind in sorted(queues):
        for job in queue(tables, pool, kind):
            if now < job.not_before or not could_ever_fit(tables, job, now, lease_s):
                continue
            members = place(tables, job, now, lease_s)
            if members is None:
                break
            yield job, members


def growing_jobs(tables: Tables, now: float, lease_s: float) -> Iterator[tuple[Job, Member]]:
    """Find the jobs that run with fewer workers than they would take, each with a worker more; the caller stores each before the next.

    Jobs that wait come first: one that could be placed once there is room is not held up by one that runs.
    """
    for job in list(tables.jobs.values()):
        if not wants_more(job, now):
            continue
        waiting = queue(tables, job.pool, job.kind)
        if any(now >= other.not_before and could_ever_fit(tables, other, now, lease_s) for other in waiting):
            continue
        demand = Demand(job.kind.task_node, 1, distinct=False, most=1)
        nodes = _choose(tables, job, demand, Usage.of(tables), now, lease_s, job.avoided_nodes)
        if nodes:
            yield job, replace(_member(job, job.attempt, True, job.next_rank, nodes[0], now), joined=False)


def replicas_to_add(tables: Tables, now: float, lease_s: float) -> Iterator[tuple[Job, Member]]:
    """Find the jobs of which a shard has no replica, each with a new one; the caller stores each before the next.

    What was promised to a job that runs comes before jobs that wait.
    """
    for name in [job.name for job in tables.jobs.values() if job.replicated]:
        for primary in replicas.wanting(tables.jobs[name], now):
            job = tables.jobs[name]
            nodes = _for_replica(tables, job, primary, now, lease_s)
            if nodes:
                made = _member(job, job.attempt, False, primary.index, nodes[0], now)
                yield job, replace(made, replica=True, term=primary.term + 1)


def _for_replica(tables: Tables, job: Job, primary: Member, now: float, lease_s: float) -> list[Node] | None:
    """Choose a node for a new replica: where one was silent rather than nowhere, for what was in between may have been mended."""
    # No node of which something of this attempt must yet be deleted: the new one would be, too.
    full = {member.node for member in (*job.members, *job.remnants) if not member.task}
    demand, usage = Demand(NodeKind.PARAMETERS, 1, distinct=True, most=1), Usage.of(tables)
    for avoided in (full.union(job.avoided_nodes), full):
        nodes = _choose(tables, job, demand, usage, now, lease_s, avoided, [primary.machine])
        if nodes:
            return nodes
    return None


def joining_shards(tables: Tables, job: Job, now: float, lease_s: float) -> tuple[Member, ...] | None:
    """Choose nodes for the shards that a job wants more than it has; None if it cannot have them now, nothing if it wants fewer."""
    more = job.shards - len(job.stores)
    if more <= 0:
        return ()
    # No node of which something of this attempt must yet be deleted: the new one would be, too.
    avoided = [member.node for member in (*job.members, *job.remnants) if not member.task]
    count = 2 * more if job.replicated else more
    demand = Demand(NodeKind.PARAMETERS, count, distinct=True, most=count)
    nodes = _choose(tables, job, demand, Usage.of(tables), now, lease_s, avoided)
    return joining(_stores(job, job.attempt, nodes, now), job.next_shard) if nodes else None
