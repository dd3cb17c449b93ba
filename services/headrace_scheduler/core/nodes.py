"""What the scheduler knows of pools and of the processes that do work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_POOL = "pools/default"


class NodeKind(StrEnum):
    """What a node does."""

    PARAMETERS = "PARAMETERS"
    TRAINING = "TRAINING"
    OPTIMIZATION = "OPTIMIZATION"
    INFERENCE = "INFERENCE"


class NodeState(StrEnum):
    """How a node is doing."""

    READY = "READY"
    DRAINING = "DRAINING"
    LOST = "LOST"


@dataclass(frozen=True)
class Pool:
    """A named set of nodes; `create_time` in seconds since the epoch, as all times here."""

    name: str
    description: str = ""
    create_time: float = 0.0


@dataclass(frozen=True)
class ServedModel:
    """One model an inference node says it has."""

    model: str
    version: str
    file: str
    ready: bool
    error: str = ""


@dataclass(frozen=True)
class RecoveredStore:
    """One shard that a process found on its disk when it started, whole."""

    name: str
    epoch: int
    shard_index: int
    version: int


@dataclass(frozen=True)
class Node:
    """One process, and the one before it under the same name."""

    name: str
    kind: NodeKind
    pool: str
    address: str
    slots: int
    incarnation: str
    attach_time: float
    labels: Mapping[str, str] = field(default_factory=dict)
    drained: bool = False
    superseded: tuple[str, ...] = ()  # former incarnations: such a process may thaw, and must not come back
    # What follows is not kept through a restart of the scheduler.
    heard: float = 0.0
    connected: bool = False
    lost: bool = False
    leaving: bool = False
    active_tasks: frozenset[str] = frozenset()  # not final, in its last report
    models: tuple[ServedModel, ...] = ()
    recovered: tuple[RecoveredStore, ...] = ()  # as it said when it attached

    @property
    def machine(self) -> str:
        """Host of its address: processes of one are lost together."""
        return self.address.rpartition(":")[0]

    @property
    def state(self) -> NodeState:
        """As the proto says."""
        if self.lost:
            return NodeState.LOST
        return NodeState.DRAINING if self.drained or self.leaving else NodeState.READY

    def silence(self, now: float, lease_s: float) -> str:
        """Say why it cannot be given work just now, although nobody drained it; empty if it can."""
        if self.lost:
            return "lost"
        # Half a lease without one of the reports due every third: more likely frozen than late.
        if not self.connected or now - self.heard > lease_s / 2:
            return "not heard from just now"
        return ""

    def refusal(self, now: float, lease_s: float) -> str:
        """Say why it takes no new work, whatever its slots; empty if it does."""
        if self.silence(now, lease_s):
            return self.silence(now, lease_s)
        if self.drained or self.leaving:
            return "draining"
        return ""


def durable_node(node: Node) -> Node:
    """Return the part of a node that a restart of the scheduler must find again."""
    return Node(
        name=node.name,
        kind=node.kind,
        pool=node.pool,
        address=node.address,
        slots=node.slots,
        incarnation=node.incarnation,
        attach_time=node.attach_time,
        labels=node.labels,
        drained=node.drained,
        superseded=node.superseded,
    )
