"""Workers that come and go within an attempt: an elastic job goes on with those it has, and grows when there is room.

A worker's rank is never given to another one in the same attempt, and each change of the members has a generation: so the shards refuse
what a worker still sends that is believed dead and is not. Without shards it is the workers who are told, and who meet again without it.
"""

from dataclasses import replace

from headrace.pauses import Pauses
from headrace_scheduler.core.jobs import Failure, Job, JobState, Member, MemberState

PAUSES = Pauses(first_s=0.5, longest_s=30.0)  # from the loss of a worker to its replacement, in an attempt


def ranks_meet(job: Job) -> bool:
    """Tell whether the job's workers hold the values themselves, and must be told who they are."""
    return bool(job.min_workers and not job.shards)


def goes_on_without(job: Job, member: Member) -> bool:
    """Tell whether the attempt can do without a worker that has failed or is lost."""
    if not job.min_workers or not job.state.placed or not member.task:
        return False
    if not member.joined:
        return True
    rest = [task for task in job.joined_tasks if task.index != member.index]
    if len(rest) < job.min_workers:
        return False
    if member.index > rest[0].index:
        return True
    # The one that leads. Those that are done have not led, and will not.
    return not any(task.state is MemberState.SUCCEEDED for task in rest)


def without(job: Job, member: Member, failure: Failure, now: float) -> Job:
    """Go on without a worker; what may be left of it is ended like what former attempts have left."""
    gone = next(task for task in job.tasks if task.index == member.index)
    lost = job.lost_workers + 1
    job = replace(
        job,
        members=tuple(other for other in job.members if other is not gone),
        remnants=job.remnants if gone.state.settled else (*job.remnants, gone),
        generation=job.generation + gone.joined,
        lost_workers=lost,
        not_before=now + PAUSES.after(lost),
        rank_progress={rank: done for rank, done in job.rank_progress.items() if rank != gone.index},
    )
    return _told(job, f"worker {gone.index} is gone: {failure.message}")


def joined(job: Job, member: Member) -> Job:
    """Make a worker a member of the run, now that it is ready: from here on the others wait for it."""
    job = job.with_member(replace(member, joined=True))
    job = replace(job, generation=job.generation + 1)
    return _told(job, f"worker {member.index} on {member.node.removeprefix('nodes/')} has joined")


def wants_more(job: Job, now: float) -> bool:
    """Tell whether a job that runs would take another worker."""
    running = job.min_workers and job.state is JobState.RUNNING and now >= job.not_before
    ending = any(task.state is MemberState.SUCCEEDED for task in job.tasks)
    return bool(running and not ending and len(job.tasks) < job.workers)


def grown(job: Job, member: Member) -> Job:
    """Give a job one worker more, which is not a member of the run before it is ready."""
    return replace(job, members=(*job.members, member), next_rank=member.index + 1)


def knows(job: Job, told: Member, generation: int) -> Job:
    """Take note that a shard, or a worker, knows the members of a generation."""
    return job.with_member(replace(told, generation=max(told.generation, generation)))


def _told(job: Job, why: str) -> Job:
    count = len(job.joined_tasks)
    message = f"attempt {job.attempt} goes on with {count} of {job.workers} workers: {why}"
    return replace(job, message=message)
