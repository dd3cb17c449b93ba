"""Shards in two processes: which of them serves in which term, and how an attempt goes on when one of them is gone.

The scheduler alone hands out terms, and has written each down before it tells anyone. A term has one primary and at most one
replica. Nothing here asks whether a lost primary is dead: once its replica has taken a greater term, it can acknowledge nothing.
"""

from collections.abc import Iterable
from dataclasses import replace

from headrace.pauses import Pauses
from headrace_scheduler.core import elastic, reasons
from headrace_scheduler.core.events import SilentReplica
from headrace_scheduler.core.jobs import Failure, Job, JobState, Member, MemberState

FIRST_TERM = 1
PATIENCE_S = 10.0  # for which a replica may be silent to its primary, unless the operator says otherwise
PAUSES = Pauses(first_s=0.5, longest_s=30.0)  # from the loss of a replica to the next one, in an attempt


def goes_on_without(job: Job, member: Member) -> bool:
    """Tell whether the attempt can do without a process of a shard: while it runs, if there is another that has all of it.

    An attempt that only starts has nothing to lose, and is begun anew.
    """
    if member.task or job.state is not JobState.RUNNING:
        return False
    if not member.joined and any(other.state is MemberState.PLACED for other in pair(job, member.index)):
        return False  # nobody has asked anything of them
    replica = job.replica_of(member)
    # Whether it has caught up only the replica itself knows: it refuses to serve if it has not.
    return member.replica or (replica is not None and replica.state is MemberState.HELD)


def pair(job: Job, index: int) -> tuple[Member, ...]:
    """Return the processes of a shard: two, or one that serves alone."""
    return tuple(member for member in job.members if not member.task and member.index == index)


def without_silent(job: Job, primary: Member, silent: SilentReplica, now: float) -> Job:
    """Let a primary go on alone that hears nothing of its replica, although the scheduler hears both; do nothing if the report is an old one.

    One of them cannot reach the other, or the replica takes no records, for want of room on its disk perhaps. Who is to blame cannot be
    known: the primary has all that was acknowledged, and the replica maybe not.
    """
    replica = job.replica_of(primary)
    known = (primary.resource, primary.epoch, primary.index, primary.term)
    speaks_of = (silent.store, silent.epoch, silent.index, silent.term)
    if replica is None or known != speaks_of or replica.address != silent.address:
        return job
    if not goes_on_without(job, replica) or job.result_is_safe:
        return job  # before it runs it may still be in the making
    why = f"{_id(replica)} has confirmed nothing to {_id(primary)} for {silent.silence_s:.0f} s: {silent.why}"
    job = replace(job, avoided_nodes=tuple(dict.fromkeys((*job.avoided_nodes, replica.node))))
    return without(job, replica, Failure(reasons.REPLICA_UNREACHABLE, why), now)


def without(job: Job, member: Member, failure: Failure, now: float) -> Job:
    """Begin a term without a process of a shard; what may be left there is deleted like what former attempts have left."""
    job = _without_beginners(job, failure, now)
    gone = next(other for other in job.members if other.key == member.key)
    primary = next(store for store in job.primaries if store.index == gone.index)
    if gone.replica:
        job = _paused(_succeeded(job, primary, replace(primary, term=primary.term + 1)), now)
        what = f"shard {gone.index} has lost its replica and is served by one process until it has another"
    else:
        successor = job.replica_of(primary)
        assert successor, "only then does it go on"
        served = replace(successor, replica=False, term=primary.term + 1, told=0, generation=0)
        job = _succeeded(job, primary, served)
        what = f"shard {gone.index} is served by its replica on {_id(served)}"
    left = () if gone.state.settled else (gone,)
    return _message(replace(job, remnants=job.remnants + left), f"{what}: {failure.message}")


def _succeeded(job: Job, primary: Member, successor: Member) -> Job:
    """Let the shard be with `successor` alone."""
    rest = (other for other in job.members if not (other.replica and other.index == primary.index))
    return replace(job, members=tuple(successor if other is primary else other for other in rest))


def _without_beginners(job: Job, failure: Failure, now: float) -> Job:
    """Give up workers that may have been told where the shards were, so that nobody is told two things under one name."""
    for task in job.tasks:
        if task.state is MemberState.PLACED:
            job = elastic.without(job, task, failure, now)
    return job


def _paused(job: Job, now: float) -> Job:
    lost = job.lost_replicas + 1
    return replace(job, lost_replicas=lost, replicas_from=now + PAUSES.after(lost))


def recovered(job: Job, store: Member, where: str, now: float) -> Job:
    """Let a primary that has outlived its process serve again: it has all that it acknowledged, and its replica begins anew."""
    job = _without_beginners(job, Failure(reasons.NODE_LOST, where), now)
    replica = job.replica_of(store)
    job = _succeeded(job, store, replace(store, term=store.term + 1, told=0))
    left = (replica,) if replica and not replica.state.settled else ()
    return _message(replace(job, remnants=job.remnants + left), where)


def told(job: Job, store: Member, term: int) -> Job:
    """Take note that a primary serves in a term."""
    return job.with_member(replace(store, told=max(store.told, term)))


def wanting(job: Job, now: float) -> list[Member]:
    """List the primaries that a new replica can be given to."""
    runs = job.state is JobState.RUNNING and not job.result_is_safe
    if not (job.replicated and runs and now >= job.replicas_from):
        return []
    if any(task.state is MemberState.PLACED for task in job.tasks):
        return []  # it is just being told where the shards are
    return [
        store
        for store in job.stores
        if store.state is MemberState.HELD and store.told == store.term and job.replica_of(store) is None
    ]


def joined(job: Job, replica: Member) -> Job:
    """Give a shard a replica, in the next term; its primary serves alone until it has caught up."""
    primary = next(store for store in job.stores if store.index == replica.index)
    job = job.with_member(replace(primary, term=replica.term))
    where = f"{_id(replica)}, on the same machine" if replica.machine == primary.machine else _id(replica)
    return _message(
        replace(job, members=(*job.members, replica)), f"shard {replica.index} gets a new replica on {where}"
    )


def on_one_machine(members: Iterable[Member]) -> str:
    """Say, as the end of a sentence, which shards a single machine takes with it; nothing if none."""
    machines = {(member.index, member.replica): member.machine for member in members if not member.task}
    shards = [
        index
        for (index, replica), machine in machines.items()
        if replica and machines[index, False] == machine
    ]
    if not shards:
        return ""
    which = f"shard {shards[0]}" if len(shards) == 1 else f"shards {', '.join(map(str, shards))}"
    return f"; the replica of {which} is on the machine of its primary, for want of another"


def _message(job: Job, what: str) -> Job:
    return replace(job, message=f"attempt {job.attempt} goes on: {what}")


def _id(member: Member) -> str:
    return member.node.removeprefix("nodes/")
