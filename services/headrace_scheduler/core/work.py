"""What jobs still need from the world, read off their state: after a restart the same state asks for the same commands."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from headrace_scheduler.core import elastic, reasons, replicas, resharding
from headrace_scheduler.core.commands import (
    Assign,
    Assignment,
    Command,
    CreateStore,
    DeleteStore,
    Reshard,
    ResolveVersion,
    SetMembers,
    SetRanks,
    StartTask,
    StopTask,
    Target,
)
from headrace_scheduler.core.jobs import Failure, Job, JobKind, JobState, Member, MemberState, Verdict
from headrace_scheduler.core.lifecycle import ending, failed, held, member_failed, settled
from headrace_scheduler.core.tables import Tables

# After these nobody knows whether the node has done it, so that it must be undone. Any other answer is a clear no: there is
# nothing to end, or what has the name there is somebody else's.
MAY_HAVE_WORKED = frozenset(
    {reasons.CANCELLED, reasons.DEADLINE_EXCEEDED, reasons.INTERNAL, reasons.UNAVAILABLE, reasons.UNKNOWN}
)
# These say nothing about the shard that a process shall serve: it is told again.
TELL_AGAIN = MAY_HAVE_WORKED | {reasons.SERVER_DRAINING, reasons.TOO_MANY_CALLS}
# An earlier request of ours may still be at it, or somebody else serves the shard that was asked, and knows what came of that one.
_UNCLEAR = MAY_HAVE_WORKED | {reasons.ABORTED, reasons.NOT_PRIMARY, reasons.REPLICA_UNREACHABLE}


def commands_for(tables: Tables, job: Job) -> Iterator[Command]:
    """List what the job needs now."""
    if job.state is JobState.STARTING:
        yield from _start(job)
    if job.state.placed:
        yield from _change(job)
    if job.state is JobState.CANCELLING or job.state.final:
        yield from _end(tables, job, job.members)
    elif job.state.placed and job.tasks[0].state is MemberState.SUCCEEDED:
        # The result is safe: nobody needs what another rank still does, or waits for.
        yield from _end(tables, job, job.tasks)
    yield from _end(tables, job, job.remnants)


def _start(job: Job) -> Iterator[Command]:
    """First the version to optimize or the stores, then the tasks, which need them."""
    if job.kind is JobKind.OPTIMIZE and not job.version:
        yield ResolveVersion(Target(), job.name, job.spec)
        return
    missing = [_create_store(job, store) for store in _not_made(job)]
    yield from missing
    if not missing:
        yield from (_start_task(job, task) for task in job.tasks if task.state is MemberState.PLACED)


def _not_made(job: Job) -> list[Member]:
    stores = (*job.primaries, *job.replicas)
    return [store for store in stores if store.state is MemberState.PLACED]


def _change(job: Job) -> Iterator[Command]:
    """Tell the shards in which term they serve and who the members are, make replicas, and start workers and shards that are added."""
    if job.state is JobState.RUNNING:
        yield from (_create_store(job, replica) for replica in _not_made(job))
    for store in job.primaries:
        replica = job.replica_of(store)
        if store.told < store.term and (replica is None or replica.state is MemberState.HELD):
            target, assignment = _target(store), _assignment(job, store)
            yield Assign(target, job.name, store.resource, store.epoch, store.index, assignment)
    ranks = tuple(task.index for task in job.joined_tasks)
    for store in job.stores:
        serves = store.state is MemberState.HELD and (store.told > 0 or not job.replicated)
        if serves and store.generation < job.generation:
            target, name = _target(store), store.resource
            yield SetMembers(target, job.name, name, store.epoch, store.index, job.generation, ranks)
    if elastic.ranks_meet(job):
        yield from _tell_ranks(job)
    if job.state is JobState.RUNNING:
        move = resharding.request(job)
        if move:
            yield move
        yield from (_start_task(job, task) for task in job.tasks if task.state is MemberState.PLACED)


def _tell_ranks(job: Job) -> Iterator[SetRanks]:
    """Tell each worker that is a member, and that its node knows of, who all are."""
    members = job.joined_tasks
    ranks, lead = tuple(task.index for task in members), members[0]
    for task in members:
        known = task.state in (MemberState.HELD, MemberState.RUNNING)
        if known and task.generation < job.generation:
            target, generation = _target(task), job.generation
            yield SetRanks(
                target, job.name, task.resource, task.epoch, generation, ranks, _target(lead), lead.resource
            )


def _create_store(job: Job, store: Member) -> CreateStore:
    return CreateStore(
        target=_target(store),
        job=job.name,
        store=store.resource,
        epoch=store.epoch,
        index=store.index,
        shards=len(resharding.shards_after(job)),
        workers=job.first_workers,
        snapshots=job.resume.snapshots if job.resume and store.joined and not store.replica else (),
        assignment=_assignment(job, store) if job.replicated else None,
        joins=not store.joined or (store.replica and job.map_epoch > 1),  # its id may be any by now
        spec=job.spec,
    )


def _assignment(job: Job, store: Member) -> Assignment:
    replica = job.replica_of(store)
    return Assignment(store.term, not store.replica, replica.address if replica and not store.replica else "")


def _start_task(job: Job, task: Member) -> StartTask:
    # Of those that meet by themselves, once; the others' lead may change.
    lead = None if job.stores or elastic.ranks_meet(job) else job.tasks[0]
    return StartTask(
        target=_target(task),
        job=job.name,
        kind=job.kind,
        task=task.resource,
        epoch=task.epoch,
        rank=task.index,
        workers=job.first_workers,
        store=job.stores[0].resource if job.stores else "",
        shards=tuple(store.address for store in job.stores),
        replicas=_replicas(job),
        start_step=job.resume.step if job.resume else 0,
        snapshot=job.resume.snapshots[0] if job.resume and not job.stores else "",
        best=job.resume_best,
        lead=_target(lead) if lead else Target(),
        lead_task=lead.resource if lead else "",
        version=job.version,
        spec=job.spec,
    )


def _replicas(job: Job) -> tuple[str, ...]:
    """List the address of each shard's replica; empty for one that has none just now."""
    found = [job.replica_of(store) for store in job.stores]
    return tuple(replica.address if replica else "" for replica in found) if job.replicated else ()


def _end(tables: Tables, job: Job, members: Iterable[Member]) -> Iterator[Command]:
    """Stop the tasks, then delete the stores they use. What is on a lost node is ended when that process comes back."""
    left = [
        member
        for member in members
        if not member.state.settled and tables.process_is_there(member.node, member.incarnation)
    ]
    tasks = [member for member in left if member.task]
    yield from (StopTask(_target(task), job.name, job.kind, task.resource) for task in tasks)
    if not tasks:
        yield from (DeleteStore(_target(s), job.name, s.resource, s.epoch, s.index) for s in left)


def _target(member: Member) -> Target:
    return Target(member.node, member.address)


def answered(job: Job, command: Command, failure: Failure | None, version: str, now: float) -> Job:
    """Take over the answer to one of the job's commands."""
    if isinstance(command, ResolveVersion):
        return _resolved(job, failure, version, now)
    if isinstance(command, Reshard):
        return _resharded(job, command, failure, now)
    member = _member_of(job, command)
    if member is None:
        return job  # the attempt is over and what the command was about is settled
    if isinstance(command, SetMembers | SetRanks):
        return elastic.knows(job, member, command.generation) if failure is None else job
    if isinstance(command, Assign):
        return _assigned(job, member, command.assignment.term, failure, now)
    if isinstance(command, CreateStore | StartTask):
        return _started(job, member, failure, now)
    ended = {reasons.NOT_FOUND} if isinstance(command, StopTask) else {reasons.NOT_FOUND, reasons.STALE_EPOCH}
    # A stopped task is gone when its node reports it final; a deleted store at once.
    if failure.reason in ended if failure else isinstance(command, DeleteStore):
        return settled(job.with_member(member.to(MemberState.GONE, now)), now)
    return job


def _resolved(job: Job, failure: Failure | None, version: str, now: float) -> Job:
    if job.version or not job.state.placed:
        return job
    if failure is None:
        return replace(job, version=version)
    if (
        failure.reason == reasons.NOT_FOUND
    ):  # unlike a lost store, a version that is not there will not come back
        return ending(job, Verdict(JobState.FAILED, f"failed: {failure.message}", failure), now)
    return failed(job, failure, now)


def _resharded(job: Job, command: Reshard, failure: Failure | None, now: float) -> Job:
    if not job.state.placed or command.epoch != job.attempt:
        return job
    current = job.resharding is not None and (command.map_epoch, command.next) == (
        job.map_epoch,
        resharding.shards_after(job),
    )
    if failure is None and current:
        return resharding.done(job)
    if failure is None or failure.reason in ("SHARD_MAP_CHANGED", "DATA_LOSS"):
        why = failure.message if failure else "a shard that has taken over values is gone"
        return failed(job, Failure("DATA_LOSS", f"its shards have changed, and {why}"), now)
    return resharding.refused(job, failure, clear=failure.reason not in _UNCLEAR) if current else job


def _started(job: Job, member: Member, failure: Failure | None, now: float) -> Job:
    if member in job.remnants or not job.state.placed:
        return job  # it is being ended, whatever became of its start
    if failure is None:
        return held(job, member, now)
    if failure.reason not in MAY_HAVE_WORKED:
        job = job.with_member(member.to(MemberState.GONE, now))
    where = f"{member.node} did not take {member.resource}: {failure.message}"
    return settled(member_failed(job, member, replace(failure, message=where), now), now)


def _assigned(job: Job, store: Member, term: int, failure: Failure | None, now: float) -> Job:
    if store in job.remnants or not job.state.placed:
        return job
    if failure is None:
        return replicas.told(job, store, term)
    if failure.reason in TELL_AGAIN or term != store.term:
        return job
    what = f"shard {store.index} is lost: {store.node} does not serve it in term {term}: {failure.message}"
    failure = Failure(reasons.NODE_LOST, what)
    return settled(failed(job, failure, now) if store.joined else resharding.without(job, failure, now), now)


def _member_of(job: Job, command: Command) -> Member | None:
    for member in (*job.members, *job.remnants):
        if isinstance(command, CreateStore | Assign | SetMembers | DeleteStore):
            found = member.key == (command.store, command.index, command.epoch, command.target.node)
        else:
            found = isinstance(command, StartTask | SetRanks | StopTask) and member.resource == command.task
        if found:
            return member
    return None
