"""What a shard is told when it is made."""

from dataclasses import dataclass, replace
from enum import Enum

from headrace.errors import FailedPrecondition, InvalidArgument, StaleEpoch
from headrace.names import StoreName
from headrace.parameters.filters.config import NONE, Compression
from headrace_optimizers.bounds import check
from headrace_optimizers.config import Lamb, Optimizer, Registered
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_optimizers.table_config import TableConfig, check_tables
from headrace_parameters.core.tenure import Assignment, Role


class Consistency(Enum):
    """When a push takes effect: with all others of its step (bulk synchronous), or at once; SSP bounds how far workers part."""

    BSP = "bsp"
    SSP = "ssp"
    ASYNC = "async"


class Durability(Enum):
    """What an acknowledged push survives: nothing, the death of the process, that of the machine; with a replica, that of one of two."""

    MEMORY = "memory"
    PROCESS = "process"
    DISK = "disk"
    REPLICA = "replica"
    REPLICA_DISK = "replica+disk"

    @property
    def logged(self) -> bool:
        """Whether every change is written to a log before it is made."""
        return self in (Durability.PROCESS, Durability.DISK, Durability.REPLICA_DISK)

    @property
    def forced(self) -> bool:
        """Whether the log is forced to the disk before an answer."""
        return self in (Durability.DISK, Durability.REPLICA_DISK)

    @property
    def replicated(self) -> bool:
        """Whether another process holds every change before an answer."""
        return self in (Durability.REPLICA, Durability.REPLICA_DISK)


class Norms(Enum):
    """What a step may have to know of the whole model; all are squared, so that those of the shards add up.

    GRADIENT: one number, of the step's mean gradient, for clipping.
    TENSORS: two for each tensor of the model, as `LambOptimizer.squared_norms` has them.
    """

    GRADIENT = "gradient"
    TENSORS = "tensors"


@dataclass(frozen=True)
class StoreConfig:
    """One shard of a store, before it has values.

    Args:
        epoch: The attempt that owns it, 1 or more; everything an older attempt tries is refused.
        shard_index: Its id, below `shard_count` in a store's first map.
        shard_count: How many shards there are in the map it goes by.
        joins: It takes over values from other shards, and its id is any.
        snapshots: Names of the artifacts it begins with; none: it waits to be initialized.
        staleness_bound: SSP: how many steps a worker may run ahead of the slowest.
        backup_workers: BSP: of how many workers a step does not wait for the gradients.
        compression: What is done to gradients and values that travel by streams.
        maximum_gradient_norm: BSP: the mean gradient of a step is scaled down to this norm over all shards; 0: it is not.
        tables: Those it is made with; others may come with its first values.
        assignment: What this process is to a replicated store when it is made.
    """

    name: StoreName
    epoch: int
    shard_index: int
    shard_count: int
    worker_count: int
    consistency: Consistency
    optimizer: Optimizer
    snapshots: tuple[str, ...] = ()
    schedule: Schedule = CONSTANT
    staleness_bound: int = 0
    backup_workers: int = 0
    maximum_gradient_norm: float = 0.0
    joins: bool = False
    durability: Durability = Durability.MEMORY
    compression: Compression = NONE
    tables: tuple[TableConfig, ...] = ()
    assignment: Assignment | None = None

    def __post_init__(self) -> None:
        check("epoch", self.epoch, "1 or more", self.epoch >= 1)
        check("shard_count", self.shard_count, "1 or more", self.shard_count >= 1)
        check("worker_count", self.worker_count, "1 or more", self.worker_count >= 1)
        in_range = self.joins or 0 <= self.shard_index < self.shard_count
        check("shard_index", self.shard_index, f"0 to {self.shard_count - 1}", in_range)
        self._check_consistency()
        self._check_assignment()
        self.check_tables(self.tables)

    def _check_assignment(self) -> None:
        if (self.assignment is not None) is not self.durability.replicated:
            raise InvalidArgument(
                f"durability is {self.durability.value}; set assignment with replica and replica+disk, and only there",
                field="assignment",
            )
        if self.snapshots and self.assignment and self.assignment.role is Role.REPLICA:
            raise InvalidArgument(
                "a replica begins with what its primary has; leave snapshots out", field="snapshots"
            )

    def check_tables(self, tables: tuple[TableConfig, ...]) -> None:
        """Raise InvalidArgument if the store cannot have these tables."""
        check_tables(tables)

    def _check_consistency(self) -> None:
        bound, backups, most = self.staleness_bound, self.backup_workers, self.worker_count - 1
        if self.consistency is Consistency.SSP:
            check("staleness_bound", bound, "0 or more", bound >= 0)
        else:
            check("staleness_bound", bound, "0 unless consistency is SSP", bound == 0)
        if self.consistency is Consistency.BSP:
            check("backup_workers", backups, f"0 to {most}, fewer than the workers", 0 <= backups <= most)
        else:
            check("backup_workers", backups, "0 unless consistency is BSP", backups == 0)
        norm, field = self.maximum_gradient_norm, "optimizer.maximum_gradient_norm"
        check(field, norm, "0 (no clipping) or more", norm >= 0)
        whole_steps = self.consistency is Consistency.BSP and not backups
        check(field, norm, "0 unless consistency is BSP without backup workers", whole_steps or norm == 0)
        own = isinstance(self.optimizer, Registered)
        one = not (own and self.durability.replicated)
        check(
            "durability", self.durability.replicated, "without a replica, with an optimizer of your own", one
        )
        joint = Norms.TENSORS in self.joint_norms
        bounds = "1 with LAMB, unless consistency is BSP without backup workers"
        check("shard_count", self.shard_count, bounds, not joint or whole_steps)

    @property
    def joint_norms(self) -> tuple[Norms, ...]:
        """Norms that a complete step waits for, in this order; none if the shard can take it alone."""
        clips, scales = self.maximum_gradient_norm > 0, isinstance(self.optimizer, Lamb)
        wanted = {Norms.GRADIENT: clips, Norms.TENSORS: scales}
        return tuple(norms for norms, is_wanted in wanted.items() if is_wanted and self.shard_count > 1)

    def among(self, shard_count: int) -> "StoreConfig":
        """Return it for a map of so many shards, with any ids; InvalidArgument if its settings do not go with so many."""
        return replace(self, shard_count=shard_count, joins=True)

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
