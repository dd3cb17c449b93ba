"""What the core asks of the world. Every command can be repeated without harm."""

from dataclasses import dataclass

from headrace_scheduler.core.jobs import Best, JobKind


@dataclass(frozen=True)
class Target:
    """The process to call; node and address are empty for the registry."""

    node: str = ""
    address: str = ""


@dataclass(frozen=True)
class Assignment:
    """What a process is to a shard that has a replica, in one term; `replica` is the address of a primary's, if it has one."""

    term: int
    primary: bool
    replica: str = ""


@dataclass(frozen=True)
class CreateStore:
    """Stores.CreateStore: shard `index` of `shards`; `assignment` is None in a job without replicas."""

    target: Target
    job: str
    store: str
    epoch: int
    index: int
    shards: int
    workers: int
    snapshots: tuple[str, ...]  # to go on from, of any number of shards
    assignment: Assignment | None
    joins: bool  # it takes over values from others
    spec: bytes


@dataclass(frozen=True)
class Assign:
    """Replication.Assign: what a process that has a shard is to it from now on."""

    target: Target
    job: str
    store: str
    epoch: int
    index: int
    assignment: Assignment


@dataclass(frozen=True)
class SetMembers:
    """Stores.SetMembers: whose gradients this shard takes from now on."""

    target: Target
    job: str
    store: str
    epoch: int
    index: int
    generation: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class SetRanks:
    """Workers.SetMembers: who the members are, told to one of them, which holds the values itself."""

    target: Target
    job: str
    task: str
    epoch: int
    generation: int
    ranks: tuple[int, ...]
    lead: Target  # where the first of them runs
    lead_task: str


@dataclass(frozen=True)
class Reshard:
    """Resharding.Reshard, asked of a shard that stays.

    Args:
        shards, add, remove: Addresses: of all that there are, of those that join, and of those that leave.
        next: Indices of all that there are afterwards.
    """

    target: Target
    job: str
    store: str
    epoch: int
    map_epoch: int
    shards: tuple[str, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
    next: tuple[int, ...]


@dataclass(frozen=True)
class DeleteStore:
    """Stores.DeleteStore, of this epoch or an older one."""

    target: Target
    job: str
    store: str
    epoch: int
    index: int


@dataclass(frozen=True)
class StartTask:
    """Workers.StartTask or Optimizer.StartTask."""

    target: Target
    job: str
    kind: JobKind
    task: str
    epoch: int
    rank: int
    workers: int
    store: str
    shards: tuple[str, ...]
    replicas: tuple[str, ...]  # of the shards, or none
    start_step: int
    snapshot: str  # to go on from, where no store does
    best: Best | None  # to be surpassed
    lead: Target  # where rank 0 runs, if ranks meet there once and for all
    lead_task: str
    version: str
    spec: bytes


@dataclass(frozen=True)
class StopTask:
    """Workers.StopTask or Optimizer.StopTask. `job` is empty for a task no job knows."""

    target: Target
    job: str
    kind: JobKind
    task: str


@dataclass(frozen=True)
class ResolveVersion:
    """Models.GetVersion: which version does an optimize job mean?"""

    target: Target
    job: str
    spec: bytes


@dataclass(frozen=True)
class LoadModel:
    """RepositoryModelLoad of one file of one version."""

    target: Target
    deployment: str
    model: str
    version: str
    file: str


@dataclass(frozen=True)
class UnloadModel:
    """RepositoryModelUnload."""

    target: Target
    deployment: str
    model: str


Command = (
    CreateStore
    | Assign
    | SetMembers
    | SetRanks
    | Reshard
    | DeleteStore
    | StartTask
    | StopTask
    | ResolveVersion
    | LoadModel
    | UnloadModel
)


@dataclass(frozen=True)
class Issued:
    """A command on its way; the answer brings `id` back."""

    id: int
    command: Command
