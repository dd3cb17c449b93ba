"""A deployment, and what inference nodes hold of it."""

from dataclasses import dataclass, replace
from enum import StrEnum

from headrace_scheduler.core.jobs import Failure


class DeploymentState(StrEnum):
    """How a deployment is doing."""

    PROGRESSING = "PROGRESSING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Replica:
    """A deployment on one node; `ready` if it serves the wished version there now."""

    node: str
    address: str
    ready: bool


@dataclass(frozen=True)
class Deployment:
    """A version kept served under a name."""

    name: str
    version: str  # as wished: a version or an alias
    file: str  # as wished: empty for the version's serving file
    replicas: int
    pool: str
    resolved_version: str
    resolved_file: str
    create_time: float
    update_time: float
    sequence: int = 0
    generation: int = 1  # grows with the wish; it is the etag
    state: DeploymentState = DeploymentState.PROGRESSING
    failure: Failure | None = None
    revision: int = 1
    serving: tuple[Replica, ...] = ()

    @property
    def model(self) -> str:
        """What a node knows it by: `{project}/{model_name}`, the latter being what clients of the Open Inference Protocol say."""
        _, project, _, deployment = self.name.split("/")
        return f"{project}/{deployment}"

    @property
    def etag(self) -> str:
        """Changes with the wish."""
        return str(self.generation)


@dataclass(frozen=True)
class Hosted:
    """A model the scheduler has put, or wants to put, on one node. What others loaded there is not its business."""

    node: str
    model: str
    deployment: str
    incarnation: str
    wanted: bool = True
    loaded_version: str = ""  # what the node was last told to serve, and did
    loaded_file: str = ""
    loaded_time: float = 0.0

    @property
    def key(self) -> str:
        """One name, one model, per node."""
        return hosted_key(self.node, self.model)


def durable_deployment(deployment: Deployment) -> Deployment:
    """Return the part of a deployment that is worth a write to the disk."""
    return replace(deployment, revision=0, serving=())


def hosted_key(node: str, model: str) -> str:
    """Name the place of a model on a node."""
    return f"{node}/{model}"
