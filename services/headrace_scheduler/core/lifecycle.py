"""How a job moves: placed, started, lost and queued again, ended. Each function takes a job and returns it changed."""

from collections.abc import Iterable
from dataclasses import replace

from headrace.pauses import Pauses
from headrace_scheduler.core import elastic, reasons, replicas, resharding, stragglers
from headrace_scheduler.core.events import TaskReport, TaskState
from headrace_scheduler.core.jobs import (
    Failure,
    Job,
    JobState,
    Member,
    MemberState,
    Progress,
    Verdict,
)

PAUSES = Pauses(first_s=0.5, longest_s=30.0)  # after a failed attempt

# The machines failed, not the work: another attempt may do better. NOT_FOUND is what a worker sees when the process that held
# its store has restarted. Everything else ends the job at once.
COSTS_AN_ATTEMPT = frozenset(
    {
        reasons.ABORTED,
        reasons.CANCELLED,
        reasons.DATA_LOSS,
        reasons.DEADLINE_EXCEEDED,
        reasons.INTERNAL,
        reasons.NODE_LOST,
        reasons.NOT_FOUND,
        reasons.NOT_PRIMARY,
        reasons.REPLICA_UNREACHABLE,
        reasons.RESOURCE_EXHAUSTED,
        reasons.SERVER_DRAINING,
        reasons.SHARD_MAP_CHANGED,
        reasons.STALE_EPOCH,
        reasons.STORAGE_FULL,
        reasons.TASK_CRASHED,
        reasons.TASK_STOPPED,
        reasons.TOO_MANY_CALLS,
        reasons.UNAVAILABLE,
        reasons.UNKNOWN,
    }
)
CRASHES_ALWAYS = "as in the attempt before, and neither made a step; correct the program, or give its node what it lacks, and submit it again"


def placed(job: Job, members: tuple[Member, ...], now: float) -> Job:
    """Begin an attempt on these members' nodes."""
    nodes = ", ".join(sorted({member.node.removeprefix("nodes/") for member in members}))
    return replace(
        job,
        state=JobState.STARTING,
        attempt=job.attempt + 1,
        members=members,
        first_workers=sum(member.task for member in members),
        next_rank=sum(member.task for member in members),
        generation=int(elastic.ranks_meet(job)),
        lost_workers=0,
        lost_replicas=0,
        replicas_from=0.0,
        map_epoch=1,
        next_shard=sum(not (member.task or member.replica) for member in members),
        resharding=None,
        straggler=-1,
        avoided_nodes=(),
        start_time=job.start_time or now,
        resume=job.checkpoint if job.checkpoint and job.checkpoint.snapshots else None,
        resume_best=job.best,
        rank_progress={},
        message=f"attempt {job.attempt + 1} starts on {nodes}{replicas.on_one_machine(members)}",
    )


def failed(job: Job, failure: Failure, now: float) -> Job:
    """End the attempt, or the job, because something of it failed."""
    if not job.state.placed:
        return job  # it is ending already
    if failure.reason not in COSTS_AN_ATTEMPT:
        return _given_up(job, failure, now)
    if any(member.leaving for member in job.members):
        why = f"{failure.message}, because a node left in good order: not counted as one of its {job.max_attempts} attempts"
        return _queued_again(replace(job, excused=job.excused + 1), failure, why, now)
    if job.counted_attempts >= job.max_attempts:
        which = f" (attempt {job.counted_attempts} of {job.max_attempts})" if job.max_attempts > 1 else ""
        return _given_up(job, replace(failure, message=failure.message + which), now)
    if job.crash and _crash(job, failure) == job.crash:
        return _given_up(job, replace(failure, message=f"{failure.message}, {CRASHES_ALWAYS}"), now)
    return _queued_again(job, failure, failure.message, now)


def member_failed(job: Job, member: Member, failure: Failure, now: float) -> Job:
    """Go on without one of the workers, one of the two processes of a shard, or a shard that has no values yet, if that can be.

    Else end the attempt, or the job.
    """
    if not (member.task or member.joined or replicas.goes_on_without(job, member)):
        return resharding.without(job, failure, now)
    if failure.reason in COSTS_AN_ATTEMPT and elastic.goes_on_without(job, member):
        return elastic.without(job, member, failure, now)
    if replicas.goes_on_without(job, member):
        return replicas.without(job, member, failure, now)
    return failed(job, failure, now)


def _given_up(job: Job, failure: Failure, now: float) -> Job:
    return ending(job, Verdict(JobState.FAILED, f"failed: {failure.message}", failure), now)


def _crash(job: Job, failure: Failure) -> str:
    """Say how the attempt crashed; empty if it did not, or not before its first step."""
    start = job.resume.step if job.resume else 0
    moved = any(progress.step > start for progress in job.rank_progress.values())
    return failure.message if failure.reason == reasons.TASK_CRASHED and not moved else ""


def _queued_again(job: Job, failure: Failure, why: str, now: float) -> Job:
    pause_s = PAUSES.after(max(job.counted_attempts, 1))
    left = tuple(member for member in job.members if not member.state.settled)
    return replace(
        job,
        state=JobState.QUEUED,
        members=(),
        remnants=job.remnants + left,
        not_before=now + pause_s,
        crash=_crash(job, failure),
        message=f"queued again: {why}",
    )


def cancelled(job: Job, now: float) -> Job:
    """End the job because somebody asked for it."""
    if job.state.final or job.state is JobState.CANCELLING:
        return job
    return ending(job, Verdict(JobState.CANCELLED, "cancelled"), now)


def ending(job: Job, verdict: Verdict, now: float) -> Job:
    """Let the job end so, once none of its tasks runs any more."""
    return settled(replace(job, state=JobState.CANCELLING, verdict=verdict, message=verdict.message), now)


def settled(job: Job, now: float) -> Job:
    """Draw the conclusion from the states of the members: all run, all done, all ended."""
    if job.state is JobState.CANCELLING and not any(member.state.active for member in job.tasks):
        assert job.verdict is not None
        return _final(job, job.verdict, now)
    if not job.state.placed:
        return job
    lead = job.tasks[0]
    if lead.state is MemberState.SUCCEEDED and not any(member.state.active for member in job.tasks):
        return _final(job, Verdict(JobState.SUCCEEDED, "succeeded"), now)
    begun = (MemberState.RUNNING, MemberState.SUCCEEDED, MemberState.LOST, MemberState.GONE)
    if job.state is JobState.STARTING and all(member.state in begun for member in job.joined_tasks):
        return replace(job, state=JobState.RUNNING, message=f"attempt {job.attempt} runs")
    return job


def _final(job: Job, verdict: Verdict, now: float) -> Job:
    # A result that came before the end was ordered otherwise is not one: only SUCCEEDED has it.
    result = job.result if verdict.state is JobState.SUCCEEDED else None
    return replace(
        job,
        state=verdict.state,
        verdict=None,
        failure=verdict.failure,
        result=result,
        message=verdict.message,
        end_time=now,
    )


def member_lost(job: Job, member: Member, state: MemberState, failure: Failure, now: float) -> Job:
    """Take note that the process of a member has ended (GONE) or may have (LOST)."""
    if member.state.settled or member.state is state:
        return job
    was_active = member.state.active
    job = job.with_member(member.to(state, now))
    current = any(other.key == member.key for other in job.members)
    if not current or not was_active:
        return job
    if job.state.placed and not job.result_is_safe:
        return settled(member_failed(job, member, failure, now), now)
    return settled(job, now)


def reported(job: Job, member: Member, task: TaskReport, now: float) -> Job:
    """Take over what a node says of a task of the current attempt."""
    if member.state.settled:
        return job
    job = _with_progress(job, member.index, task)
    if task.ready and not member.joined and job.state.placed:
        job, member = elastic.joined(job, member), replace(member, joined=True)
    if task.state in (TaskState.STARTING, TaskState.STOPPING):
        return _forward(job, member, MemberState.HELD, now)
    if task.state is TaskState.RUNNING:
        return stragglers.noted(settled(_forward(job, member, MemberState.RUNNING, now), now), now)
    return _ended(job, member, task, now)


def _forward(job: Job, member: Member, state: MemberState, now: float) -> Job:
    """Move a member, but never back: reports and answers to commands overtake each other."""
    order = [MemberState.PLACED, MemberState.HELD, MemberState.RUNNING]
    if member.state in order and order.index(state) <= order.index(member.state):
        return job
    return job.with_member(member.to(state, now))


def held(job: Job, member: Member, now: float) -> Job:
    """Take note that a node has accepted a task or made a store."""
    return _forward(job, member, MemberState.HELD, now)


def _ended(job: Job, member: Member, task: TaskReport, now: float) -> Job:
    if task.state is TaskState.SUCCEEDED:
        job = job.with_member(member.to(MemberState.SUCCEEDED, now))
        if member.index != job.tasks[0].index:
            return settled(job, now)
        if job.min_workers and job.state.placed and not (task.result and task.result.led):
            why = f"worker {member.index} was done before it heard that it was to lead"
            return failed(job, Failure(reasons.NODE_LOST, f"the worker that led is gone, and {why}"), now)
        return settled(replace(job, result=task.result), now)
    if task.state is TaskState.FAILED:
        failure = task.failure or Failure(
            reasons.UNKNOWN, f"{task.name} failed and its node does not say why"
        )
        job = job.with_member(member.to(MemberState.FAILED, now))
    else:
        failure = Failure(reasons.TASK_STOPPED, f"{task.name} was stopped on {member.node}")
        job = job.with_member(member.to(MemberState.GONE, now))
    if failure.reason in COSTS_AN_ATTEMPT and job.state.placed and job.result_is_safe:
        return settled(job, now)
    return settled(member_failed(job, member, failure, now), now)


def _with_progress(job: Job, rank: int, task: TaskReport) -> Job:
    lead = job.tasks[0].index
    if task.progress is not None:
        ranks = {**job.rank_progress, rank: task.progress}
        job = replace(job, rank_progress=ranks, progress=_fold(ranks, lead) or job.progress)
    newer = job.checkpoint is None or (
        task.checkpoint is not None and task.checkpoint.step > job.checkpoint.step
    )
    if rank == lead and task.checkpoint is not None and newer:
        job = replace(job, checkpoint=task.checkpoint)
    if rank == lead and task.best is not None:
        job = replace(job, best=task.best)
    return job


def _fold(ranks: dict[int, Progress], leading: int) -> Progress | None:
    """The rank that leads tells how far the job is; the throughput is that of all ranks together."""
    lead = ranks.get(leading)
    if lead is None:
        return None
    rates = [
        progress.metrics["samples_per_s"]
        for progress in ranks.values()
        if "samples_per_s" in progress.metrics
    ]
    return replace(lead, metrics={**lead.metrics, "samples_per_s": sum(rates)}) if rates else lead


def leaving(job: Job, member: Member) -> Job:
    """Take note that the process of a member ends in good order."""
    return job if member.leaving else job.with_member(replace(member, leaving=True))


def members_on(jobs: Iterable[Job], node: str, incarnation: str) -> list[tuple[Job, Member]]:
    """List the unsettled members that one process has or may have, remnants first."""
    return [
        (job, member)
        for job in jobs
        for member in (*job.remnants, *job.members)
        if member.node == node and member.incarnation == incarnation and not member.state.settled
    ]
