"""A job, its attempts and their members: what they are. How they change is in `lifecycle`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from headrace.names import JobName, TaskName
from headrace_scheduler.core.nodes import NodeKind


class JobState(StrEnum):
    """Life of a job, as in the proto."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def placed(self) -> bool:
        """Whether an attempt goes on that nobody has ended yet."""
        return self in (JobState.STARTING, JobState.RUNNING)


class JobKind(StrEnum):
    """What a job does; the value is part of its tasks' names."""

    TRAIN = "train"
    OPTIMIZE = "optimize"

    @property
    def task_node(self) -> NodeKind:
        """The nodes its tasks run on."""
        return NodeKind.TRAINING if self is JobKind.TRAIN else NodeKind.OPTIMIZATION


class MemberState(StrEnum):
    """Life of one task or store of an attempt."""

    PLACED = "PLACED"  # its node is chosen; whether the node knows is unknown
    HELD = "HELD"  # the node has accepted the task, or made the store
    RUNNING = "RUNNING"  # the task's work has begun
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    GONE = "GONE"  # the task was stopped, the store deleted, or their process has ended
    LOST = "LOST"  # the node's lease ended; its process may still come back

    @property
    def active(self) -> bool:
        """Whether it may be doing something on a node that is there."""
        return self in (MemberState.PLACED, MemberState.HELD, MemberState.RUNNING)

    @property
    def settled(self) -> bool:
        """Whether there is nothing left of it to end."""
        return self in (MemberState.SUCCEEDED, MemberState.FAILED, MemberState.GONE)


@dataclass(frozen=True)
class Member:
    """One task (rank) or store (shard) of one attempt, on one process."""

    resource: str
    task: bool
    index: int
    epoch: int
    node: str
    incarnation: str
    address: str
    state: MemberState = MemberState.PLACED
    since: float = 0.0
    leaving: bool = False  # its process ends in good order: what that does to the attempt is nobody's failure
    # A task is a member of the run, a store has its part of the values: one that is added is and has not before it is ready.
    joined: bool = True
    generation: int = 0  # of the members that it has been told: a store, or a task without stores
    replica: bool = False  # a store: it follows the primary of its shard
    # A store of a job with replicas: the term that it serves in, or was made a replica in; the last that it is known to serve in.
    term: int = 0
    told: int = 0

    def to(self, state: MemberState, now: float) -> "Member":
        """Return it in another state."""
        return replace(self, state=state, since=now)

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What it is, and where: the same through all its states, and when its store has outlived its process."""
        return self.resource, self.index, self.epoch, self.node

    @property
    def machine(self) -> str:
        """Host of its process."""
        return self.address.rpartition(":")[0]


@dataclass(frozen=True)
class Failure:
    """Why something failed."""

    reason: str
    message: str
    detail: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a task or job is."""

    step: int = 0
    total_steps: int = 0
    stage: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """Where the next attempt goes on."""

    step: int
    snapshots: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The best values that any attempt found."""

    step: int
    metric: str
    value: float
    artifact: str


@dataclass(frozen=True)
class Result:
    """What a job produced."""

    version: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    led: bool = False  # as TaskResult.led


@dataclass(frozen=True)
class Verdict:
    """How a job ends once the last of its tasks has ended."""

    state: JobState
    message: str
    failure: Failure | None = None


@dataclass(frozen=True)
class Resharding:
    """Which shards join the store of a job, and which leave it: by index, and fixed, so that a repeated request says the same."""

    add: tuple[int, ...]
    remove: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """A piece of work. `spec` is the serialized proto, which only the executor and the servicer read."""

    name: str
    spec: bytes
    kind: JobKind
    pool: str
    workers: int
    shards: int  # it shall have; 0: it needs no stores
    max_attempts: int
    create_time: float
    min_workers: int = 0  # it goes on with so many, and begins with them; 0: with all of them, or not at all
    straggler_factor: float = 0.0  # who takes so many times as long as the others is replaced; 0: nobody is
    replicated: bool = False  # each shard has a replica
    sequence: int = 0  # place in the queue
    state: JobState = JobState.QUEUED
    attempt: int = 0
    excused: int = 0  # attempts that ended because a node left in good order
    crash: str = ""  # how the last attempt crashed, if it did before its first step
    members: tuple[Member, ...] = ()
    remnants: tuple[Member, ...] = ()  # what former attempts, and members that are gone, may still have
    # Of this attempt:
    first_workers: int = 0  # it began with
    next_rank: int = 0  # of a worker that is added
    generation: int = 0  # of the members of the run: grows when a worker joins or is gone
    lost_workers: int = 0
    lost_replicas: int = 0
    replicas_from: float = 0.0  # when a shard whose replica was lost may have another
    map_epoch: int = 1  # of its store: grows when shards have joined or left
    next_shard: int = 0  # index of a shard that is added
    resharding: Resharding | None = None  # under way
    straggler: int = -1  # rank of the worker that was last told to be much slower than the others
    avoided_nodes: tuple[str, ...] = ()  # on which a worker was too slow, or a replica silent
    version: str = ""  # of an optimize job: what its version was resolved to, by the first attempt
    checkpoint: Checkpoint | None = None  # the newest
    # Where this attempt began: fixed, so that a repeated StartTask says the same.
    resume: Checkpoint | None = None
    best: Best | None = None  # the newest
    resume_best: Best | None = None  # what this attempt began with, likewise
    verdict: Verdict | None = None
    failure: Failure | None = None
    result: Result | None = None
    message: str = "queued"
    start_time: float = 0.0
    end_time: float = 0.0
    not_before: float = 0.0  # a failed attempt is not repeated at once
    deleted: bool = False  # nobody sees it any more; it is forgotten once nothing of it is left on any node
    revision: int = 1
    progress: Progress | None = None
    rank_progress: Mapping[int, Progress] = field(default_factory=dict)

    @property
    def counted_attempts(self) -> int:
        """How many of its `max_attempts` are used up, the one that runs included."""
        return self.attempt - self.excused

    @property
    def tasks(self) -> tuple[Member, ...]:
        """The tasks of this attempt, by rank."""
        return tuple(member for member in self.members if member.task)

    @property
    def joined_tasks(self) -> tuple[Member, ...]:
        """The tasks that are members of the run, by rank."""
        return tuple(task for task in self.tasks if task.joined)

    @property
    def stores(self) -> tuple[Member, ...]:
        """The stores of this attempt that workers use: they have values, or will have the first ones."""
        return tuple(
            member for member in self.members if member.joined and not (member.task or member.replica)
        )

    @property
    def joining_stores(self) -> tuple[Member, ...]:
        """Those that are to take over values of the others."""
        return tuple(other for other in self.members if not (other.task or other.joined or other.replica))

    @property
    def primaries(self) -> tuple[Member, ...]:
        """All stores but replicas."""
        return (*self.stores, *self.joining_stores)

    @property
    def replicas(self) -> tuple[Member, ...]:
        """The replicas of this attempt, of those shards that have one."""
        return tuple(member for member in self.members if member.replica)

    def replica_of(self, store: Member) -> Member | None:
        """Return the replica of a shard, if it has one."""
        return next((replica for replica in self.replicas if replica.index == store.index), None)

    @property
    def result_is_safe(self) -> bool:
        """Whether the result is registered: then no loss of another member can spoil it."""
        return self.tasks[0].state is MemberState.SUCCEEDED

    @property
    def settled(self) -> bool:
        """Whether it is final and nothing of it is left on any node."""
        return self.state.final and all(member.state.settled for member in (*self.members, *self.remnants))

    def with_member(self, member: Member) -> "Job":
        """Replace the member of the same key, wherever it is; a settled remnant goes."""
        members = tuple(member if other.key == member.key else other for other in self.members)
        remnants = tuple(member if other.key == member.key else other for other in self.remnants)
        return replace(self, members=members, remnants=tuple(m for m in remnants if not m.state.settled))


def durable_job(job: Job) -> Job:
    """Return the part of a job that is worth a write to the disk; progress is only of the moment."""
    return replace(job, revision=0, progress=None, rank_progress={})


_TASK = re.compile(r"(projects/[^/]+)/tasks/(.+)-([1-9][0-9]*)-(?:train|optimize)-([0-9]+)")


def task_name(job: str, attempt: int, kind: JobKind, rank: int) -> str:
    """Name a task so that it tells its job and attempt: repeated, StartTask finds it; a restarted scheduler knows it."""
    return str(TaskName.of_job(JobName.parse(job), attempt, kind, rank))


def store_name(job: str) -> str:
    """Name the store of a job; its epoch tells the attempts apart."""
    project, job_id = job.split("/jobs/")
    return f"{project}/stores/{job_id}"


def job_of_task(task: str) -> str:
    """Tell which job a task belongs to by its name; empty for a task somebody started by hand."""
    found = _TASK.fullmatch(task)
    return f"{found[1]}/jobs/{found[2]}" if found else ""
