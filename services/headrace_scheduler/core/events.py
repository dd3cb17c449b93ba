"""What happens to the scheduler. `Machine.handle` takes one and answers with an `Outcome`."""

from dataclasses import dataclass
from enum import StrEnum

from headrace_scheduler.core.commands import Issued
from headrace_scheduler.core.deployments import Deployment
from headrace_scheduler.core.jobs import Best, Checkpoint, Failure, Job, Progress, Result
from headrace_scheduler.core.nodes import Node, Pool, ServedModel


@dataclass(frozen=True)
class JobSubmitted:
    """A valid job, as new."""

    job: Job


@dataclass(frozen=True)
class JobCancelled:
    """Somebody asked a job to end."""

    name: str


@dataclass(frozen=True)
class JobResharded:
    """Somebody wants a job's store to have another number of shards."""

    name: str
    shards: int


@dataclass(frozen=True)
class JobDeleted:
    """Somebody asked to forget a final job."""

    name: str


@dataclass(frozen=True)
class PoolCreated:
    """A new pool."""

    pool: Pool


@dataclass(frozen=True)
class PoolDeleted:
    """Somebody asked to delete a pool."""

    name: str


@dataclass(frozen=True)
class NodeAttached:
    """A process said hello."""

    node: Node  # `recovered` says which stores of the process before it has


@dataclass(frozen=True)
class NodeDetached:
    """Its call ended; its lease goes on, unless it had said it was leaving."""

    name: str
    incarnation: str


class TaskState(StrEnum):
    """Life of a task on its node, as in the proto."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED)


@dataclass(frozen=True)
class TaskReport:
    """One task as its node reports it."""

    name: str
    state: TaskState
    epoch: int
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    best: Best | None = None
    failure: Failure | None = None
    result: Result | None = None
    ready: bool = False


@dataclass(frozen=True)
class SilentReplica:
    """A replica of which the process of its primary, which reports it, hears nothing."""

    store: str
    epoch: int
    index: int
    term: int
    address: str
    silence_s: float
    why: str


@dataclass(frozen=True)
class NodeReported:
    """Everything one process has now."""

    name: str
    incarnation: str
    tasks: tuple[TaskReport, ...] = ()
    models: tuple[ServedModel, ...] = ()
    leaving: bool = False
    silent_replicas: tuple[SilentReplica, ...] = ()


@dataclass(frozen=True)
class NodeDrained:
    """DrainNode, or with `drained` false ResumeNode."""

    name: str
    drained: bool


@dataclass(frozen=True)
class DeploymentCreated:
    """A valid deployment whose version was found."""

    deployment: Deployment


@dataclass(frozen=True)
class DeploymentUpdated:
    """A new wish; `etag` empty overwrites whatever is there."""

    name: str
    version: str
    file: str
    replicas: int
    resolved_version: str
    resolved_file: str
    etag: str = ""


@dataclass(frozen=True)
class DeploymentDeleted:
    """Nobody wants it any more."""

    name: str
    etag: str = ""


@dataclass(frozen=True)
class CommandDone:
    """The answer to a command: `failure` is None if it worked, `version` what ResolveVersion found."""

    issued: Issued
    failure: Failure | None = None
    version: str = ""


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""


Event = (
    JobSubmitted
    | JobCancelled
    | JobResharded
    | JobDeleted
    | PoolCreated
    | PoolDeleted
    | NodeAttached
    | NodeDetached
    | NodeReported
    | NodeDrained
    | DeploymentCreated
    | DeploymentUpdated
    | DeploymentDeleted
    | CommandDone
    | Ticked
)
