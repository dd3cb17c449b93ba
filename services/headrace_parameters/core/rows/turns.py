"""When a push takes effect and who waits for whom: the rules of a store's consistency, as `core.shard` has them for dense values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.errors import OutOfRange
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.members import Members, first_members
from headrace_parameters.core.need import Need

Pushed = TypeVar("Pushed")


@dataclass(frozen=True)
class Progress:
    """How far a table is; the clocks are as in `Published`."""

    version: int
    slowest: int
    furthest: int

    def staleness(self, step: int | None) -> int:
        """Return how many steps the slowest worker is behind who computes `step`; None: behind the furthest worker."""
        return max(0, (self.furthest if step is None else step) - self.slowest)


class Turns(Generic[Pushed]):
    """The pushes of a store's workers, of one table.

    Args:
        config: The store's.
        members: Whose pushes count; None: those of the workers that the store is made for.
    """

    def __init__(
        self,
        config: StoreConfig,
        version: int = 0,
        last_steps: Mapping[int, int] | None = None,
        members: Members | None = None,
    ) -> None:
        self._config = config
        self._version = version
        self.members = members or first_members(config.worker_count)
        workers = tuple(sorted(last_steps)) if last_steps else self.members.workers
        self._clocks = Clocks(workers, dict(last_steps or {})).among(self.members.workers)
        self._pending: dict[int, Pushed] = {}  # BSP: of the step that is not complete
        self._complete = False  # BSP: the step is, and waits for the whole model's norm

    @property
    def progress(self) -> Progress:
        """How far the table is now."""
        return Progress(self._version, self._clocks.slowest, self._clocks.furthest)

    @property
    def last_steps(self) -> Mapping[int, int]:
        """Last applied step of each worker; -1 if there is none."""
        return self._clocks.last_steps

    @property
    def waits(self) -> bool:
        """Whether a push waits for others."""
        return bool(self._pending)

    @property
    def step(self) -> int:
        """The step that the learning rate and evictions go by."""
        bsp = self._config.consistency is Consistency.BSP
        return self._version if bsp else self.members.steps_done(self._version)

    def change_members(self, generation: int, workers: tuple[int, ...]) -> None:
        """Let these workers' pushes count from now on; those of a step that is not complete are dropped.

        Raises:
            InvalidArgument, MembersChanged, AlreadyExists: As `Members.followed_by`.
        """
        members = self.members.followed_by(generation, workers, self._version)
        if members is not self.members:
            self.members, self._clocks, self._pending = members, self._clocks.among(workers), {}

    def is_duplicate(self, worker: int, step: int, generation: int = 0) -> bool:
        """Tell whether this worker's push for this step was taken before, or comes too late to be.

        Raises:
            MembersChanged, Unavailable, InvalidArgument: As `Members.check`.
            OutOfRange: BSP: the step is ahead of the version; SSP: it is too far ahead of the slowest worker.
        """
        self.members.check(worker, generation)
        if self._config.consistency is Consistency.BSP:
            if step > self._version:
                raise OutOfRange(
                    f"step {step} is ahead of the table's version {self._version}; pull, then push step {self._version}",
                    metadata={"version": self._version},
                )
            return step < self._version or self._complete or worker in self._pending
        if step < self._clocks.of(worker):
            return True
        if self._config.consistency is Consistency.SSP:
            self._clocks.check_bound(step, self._config.staleness_bound)
        return False

    def effective(self, worker: int, push: Pushed) -> Mapping[int, Pushed] | None:
        """Return the pushes that take effect if this one, which is no duplicate, is taken; None: it waits for others."""
        pushes = {**self._pending, worker: push}
        required = self.members.required_gradients(self._config.backup_workers)
        if self._config.consistency is Consistency.BSP and len(pushes) < required:
            return None
        return pushes

    def keep(self, worker: int, push: Pushed) -> None:
        """Take a push that waits for others."""
        self._pending[worker] = push

    @property
    def pending(self) -> Mapping[int, Pushed]:
        """Pushes for the step that is not complete, by worker."""
        return self._pending

    def hold(self) -> None:
        """Take no further push for this step: it is complete, and will `advance` when it is clipped."""
        self._complete, self._pending = True, {}

    def advance(self, steps: Mapping[int, int]) -> None:
        """Go on to the next version: these steps of these workers are applied."""
        self._version += 1
        self._clocks = self._clocks.after(steps)
        self._complete, self._pending = False, {}

    def need_for(self, step: int) -> Need:
        """Say how far the table must be before a worker that computes `step` may have its rows."""
        if self._config.consistency is Consistency.BSP:
            return Need(version=step)
        if self._config.consistency is Consistency.SSP:
            return Need(clock=step - self._config.staleness_bound)
        return Need()

    def next_step(self, worker: int) -> int:
        """Return the first step of this worker that will be taken."""
        return self._version if self._config.consistency is Consistency.BSP else self._clocks.of(worker)

    def missing_workers(self, need: Need) -> list[int]:
        """Workers whose pushes the next version (BSP), or what `need` asks for (SSP), waits for."""
        if self._complete:
            return []
        if self._config.consistency is Consistency.BSP:
            return [worker for worker in self.members.workers if worker not in self._pending]
        return self._clocks.behind(need.clock)
