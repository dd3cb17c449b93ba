"""What becomes of an attempt when a store comes back that has outlived its process."""

from dataclasses import replace

from headrace_scheduler.core import reasons, replicas
from headrace_scheduler.core.jobs import Failure, Job, JobState, Member, MemberState
from headrace_scheduler.core.lifecycle import failed, member_failed


def store_recovered(job: Job, member: Member, moved: Member, where: str, now: float) -> Job:
    """Go on with a store that outlived its process; the workers repeat what the outage interrupted.

    Args:
        moved: The store on its new process. At another address its workers do not find it: that costs the attempt, but the store is
            known there, and is deleted in time.
        where: What to tell people.
    """
    current = member in job.members
    # Before it had values nothing was written of its members: tell it again.
    moved = replace(moved, generation=0)
    if moved.state is MemberState.LOST:
        moved = moved.to(MemberState.HELD, now)
    job = job.with_member(moved)
    if not current or not job.state.placed or job.result_is_safe:
        return job
    if moved.replica:  # it follows nobody any more, and is made anew
        return member_failed(job, moved, Failure(reasons.NODE_LOST, where), now)
    if moved.address != member.address:
        return member_failed(job, moved, Failure(reasons.NODE_LOST, f"{where}, but at another address"), now)
    if not job.replicated:
        return replace(job, message=f"attempt {job.attempt} goes on: {where}")
    if job.state is not JobState.RUNNING:
        return failed(job, Failure(reasons.NODE_LOST, where), now)
    return replicas.recovered(job, moved, where, now)
