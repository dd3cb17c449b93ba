"""What a shard is told when it is made."""

import math
from dataclasses import dataclass
from enum import Enum

from headrace.errors import FailedPrecondition, InvalidArgument, StaleEpoch
from headrace.names import StoreName


class Consistency(Enum):
    """When a push takes effect: with all others of its step (bulk synchronous), or at once."""

    BSP = "bsp"
    ASYNC = "async"


class Durability(Enum):
    """What an acknowledged push survives: nothing, the death of the process, or that of the machine."""

    MEMORY = "memory"
    PROCESS = "process"
    DISK = "disk"


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: v = momentum v + gradient + weight_decay x; x = x - learning_rate v."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check("optimizer.sgd.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        _check("optimizer.sgd.momentum", self.momentum, "0 to below 1", 0 <= self.momentum < 1)
        _check("optimizer.sgd.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


@dataclass(frozen=True)
class AdamW:
    """AdamW with bias correction (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check("optimizer.adamw.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        _check("optimizer.adamw.beta1", self.beta1, "above 0 and below 1", 0 < self.beta1 < 1)
        _check("optimizer.adamw.beta2", self.beta2, "above 0 and below 1", 0 < self.beta2 < 1)
        _check("optimizer.adamw.epsilon", self.epsilon, "above 0", self.epsilon > 0)
        _check("optimizer.adamw.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


Optimizer = Sgd | AdamW


@dataclass(frozen=True)
class StoreConfig:
    """One shard of a store, before it has values.

    Args:
        epoch: The attempt that owns it, 1 or more; everything an older attempt tries is refused.
        snapshot: Name of the artifact it begins with; empty: it waits to be initialized.
    """

    name: StoreName
    epoch: int
    shard_index: int
    shard_count: int
    worker_count: int
    consistency: Consistency
    optimizer: Optimizer
    snapshot: str = ""
    durability: Durability = Durability.MEMORY

    def __post_init__(self) -> None:
        _check("epoch", self.epoch, "1 or more", self.epoch >= 1)
        _check("shard_count", self.shard_count, "1 or more", self.shard_count >= 1)
        _check("worker_count", self.worker_count, "1 or more", self.worker_count >= 1)
        in_range = 0 <= self.shard_index < self.shard_count
        _check("shard_index", self.shard_index, f"0 to {self.shard_count - 1}", in_range)

    def fence(self, epoch: int) -> None:
        """Let only callers of the store's own epoch pass.

        Raises:
            StaleEpoch: The caller belongs to an older attempt.
            FailedPrecondition: The caller's attempt is newer; the store must be made for it first.
        """
        if epoch < self.epoch:
            raise StaleEpoch(
                f"{self.name} belongs to epoch {self.epoch} now, the caller to {epoch}; stop, a newer attempt runs",
                metadata={"epoch": self.epoch},
            )
        if epoch > self.epoch:
            raise FailedPrecondition(
                f"{self.name} is of epoch {self.epoch}, the caller of {epoch}; call CreateStore with epoch {epoch} first"
            )


def _check(field: str, value: float, bounds: str, holds: bool) -> None:
    if not holds or not math.isfinite(value):
        raise InvalidArgument(f"{field} is {value}; it must be {bounds}", field=field)
