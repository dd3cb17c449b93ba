"""Shards that join and leave the store of a job while it trains.

`Job.shards` is how many are wanted, `Job.stores` those there are. Where these differ, a plan is made (`Job.resharding`): the shards that
are added get their nodes and are made, empty; then one that stays is asked to move the values. That request is repeated until its answer is
clear. The epoch of the shard map fences it: of several plans for one map, one comes true.
"""

from collections.abc import Iterable
from dataclasses import replace

from headrace_scheduler.core.commands import Reshard, Target
from headrace_scheduler.core.jobs import Failure, Job, JobState, Member, MemberState, Resharding
from headrace_scheduler.core.replicas import pair

PAUSE_S = 2.0  # from the loss of a shard that was to join to the next plan

# Another try would meet the same: the job stays with the shards it has.
_HOPELESS = frozenset({"INVALID_ARGUMENT", "QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"})


def wished(job: Job, shards: int) -> Job:
    """Let a job have so many shards: from its next attempt on, or as soon as it runs."""
    if shards == job.shards:
        return job
    if not job.state.placed:
        return replace(job, shards=shards, message=f"{job.message}; will have {_count(shards)}")
    return _told(replace(job, shards=shards), "as soon as all its workers run")


def is_due(job: Job, now: float) -> bool:
    """Tell whether a plan is to be made: the job runs with another number of shards than it shall have."""
    differs = job.resharding is None and bool(job.stores) and job.shards != len(job.stores)
    ending = any(task.state is MemberState.SUCCEEDED for task in job.tasks)
    return (
        differs and job.state is JobState.RUNNING and not ending and now >= job.not_before and _is_ready(job)
    )


def _is_ready(job: Job) -> bool:
    """Tell whether every process of a shard is there, and knows what it is to it."""
    stores = (*job.primaries, *job.replicas)
    return all(
        store.state is MemberState.HELD and store.told >= store.term * (not store.replica) for store in stores
    )


def planned(job: Job, joining: tuple[Member, ...] | None) -> Job:
    """Make a plan with these new members; None: there are no nodes for them now."""
    more = (job.shards - len(job.stores)) * (2 if job.replicated else 1)
    if joining is None:
        return _told(
            job, f"waits for {more} more parameter {'node' if more == 1 else 'nodes'} with a free slot"
        )
    gone = tuple(store.index for store in job.stores[job.shards :])  # the youngest
    plan = Resharding(tuple(sorted({member.index for member in joining})), gone)
    job = replace(
        job,
        members=(*job.members, *joining),
        next_shard=job.next_shard + len(plan.add),
        resharding=plan,
    )
    where = ", ".join(sorted(member.node.removeprefix("nodes/") for member in joining))
    return _told(job, f"makes shards on {where}" if where else "moves values")


def shards_after(job: Job) -> tuple[int, ...]:
    """Return the indices of the shards that there are once the plan, if there is one, is carried out."""
    removed = job.resharding.remove if job.resharding else ()
    return tuple(sorted({store.index for store in job.primaries} - {*removed}))


def request(job: Job) -> Reshard | None:
    """Return what one of the shards is to be asked now; None if nothing."""
    plan = job.resharding
    # A shard that knows other members than another one has could not give it values.
    agreed = all(store.generation >= job.generation for store in job.stores)
    if plan is None or job.state is not JobState.RUNNING or not _is_ready(job) or not agreed:
        return None
    leaving = [store for store in job.stores if store.index in plan.remove]
    first = next(store for store in job.stores if store not in leaving)
    return Reshard(
        target=Target(first.node, first.address),
        job=job.name,
        store=first.resource,
        epoch=job.attempt,
        map_epoch=job.map_epoch,
        shards=tuple(store.address for store in job.stores),
        add=tuple(store.address for store in job.joining_stores),
        remove=tuple(store.address for store in leaving),
        next=shards_after(job),
    )


def done(job: Job) -> Job:
    """Go on with the shards that the plan leads to; those that have left are ended."""
    plan = job.resharding
    assert plan is not None, "whoever calls has asked for it"
    leaving = tuple(member for index in plan.remove for member in pair(job, index))
    added = {member.key for index in plan.add for member in pair(job, index)}
    joined = (replace(member, joined=True) if member.key in added else member for member in job.members)
    members = tuple(joined)
    job = replace(
        job,
        members=tuple(member for member in members if member not in leaving),
        remnants=(*job.remnants, *leaving),
        map_epoch=job.map_epoch + 1,
        resharding=None,
    )
    return replace(job, message=f"attempt {job.attempt} goes on with {_count(len(job.stores))}")


def refused(job: Job, failure: Failure, *, clear: bool) -> Job:
    """Stay with the shards there are, or try again.

    Args:
        clear: Whether nothing can have come of the request.
    """
    if failure.reason in _HOPELESS:
        job = _dropped(replace(job, shards=len(job.stores)))
        return replace(
            job, message=f"attempt {job.attempt} stays with {_count(job.shards)}: {failure.message}"
        )
    if clear and job.shards != len(shards_after(job)):
        return _dropped(job)  # somebody wants another number by now
    return _told(job, f"not yet: {failure.message}")


def without(job: Job, failure: Failure, now: float) -> Job:
    """Make another plan after a while, because a shard that was to join is gone, or could not be made."""
    return _told(replace(_dropped(job), not_before=now + PAUSE_S), f"begins again: {failure.message}")


def joining(members: Iterable[Member], first: int) -> tuple[Member, ...]:
    """Number new members from `first` on, which are numbered from 0 and have no values yet."""
    return tuple(replace(member, index=first + member.index, joined=False) for member in members)


def _dropped(job: Job) -> Job:
    """Give the plan up; what was made for it is ended."""
    dropped = tuple(member for member in job.members if not (member.task or member.joined))
    left = tuple(store for store in dropped if not store.state.settled)
    members = tuple(member for member in job.members if member not in dropped)
    return replace(job, members=members, remnants=(*job.remnants, *left), resharding=None)


def _told(job: Job, what: str) -> Job:
    return replace(
        job, message=f"attempt {job.attempt} goes from {len(job.stores)} to {_count(job.shards)}: {what}"
    )


def _count(shards: int) -> str:
    return f"{shards} {'shard' if shards == 1 else 'shards'}"
