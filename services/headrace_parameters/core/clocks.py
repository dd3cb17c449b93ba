"""How far each worker is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.errors import OutOfRange


@dataclass(frozen=True)
class Clocks:
    """A worker's clock is its next step: one more than its last step that was applied, 0 before the first.

    Args:
        workers: Whose; one or more.
        last_steps: Last applied step of each worker that has one.
    """

    workers: tuple[int, ...]
    last_steps: Mapping[int, int] = field(default_factory=dict)

    def of(self, worker: int) -> int:
        """Return one worker's clock."""
        return self.last_steps.get(worker, -1) + 1

    @property
    def all(self) -> dict[int, int]:
        """Every worker's clock."""
        return {worker: self.of(worker) for worker in self.workers}

    @property
    def slowest(self) -> int:
        """The least clock."""
        return min(map(self.of, self.workers))

    @property
    def furthest(self) -> int:
        """The greatest clock."""
        return max(map(self.of, self.workers))

    def behind(self, clock: int) -> list[int]:
        """Return the workers that have not reached `clock`."""
        return [worker for worker in self.workers if self.of(worker) < clock]

    def after(self, steps: Mapping[int, int]) -> "Clocks":
        """Return the clocks once these steps of these workers are applied."""
        return Clocks(self.workers, {**self.last_steps, **steps})

    def among(self, workers: tuple[int, ...]) -> "Clocks":
        """Return the clocks of other workers: who stays keeps its own, who joins has the slowest clock of those that stay.

        So nobody is further from the slowest than before. If none stays, all have the slowest clock there was.
        """
        staying = [worker for worker in workers if worker in self.workers]
        begin = min(map(self.of, staying or self.workers))
        clocks = {worker: self.of(worker) if worker in staying else begin for worker in workers}
        return Clocks(workers, {worker: clock - 1 for worker, clock in clocks.items()})

    def check_bound(self, step: int, bound: int) -> None:
        """Raise OutOfRange if `step` is more than `bound` ahead of the slowest worker's."""
        if step > self.slowest + bound:
            raise OutOfRange(
                f"step {step} is more than {bound} ahead of the slowest worker's, {self.slowest}; pull with step {step}, "
                "which waits for it, then push",
                metadata={"slowest_step": self.slowest, "staleness_bound": bound},
            )
