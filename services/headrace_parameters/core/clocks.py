"""How far each worker is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.errors import OutOfRange


@dataclass(frozen=True)
class Clocks:
    """A worker's clock is its next step: one more than its last step that was applied, 0 before the first.

    Args:
        workers: How many there are.
        last_steps: Last applied step of each worker that has one.
    """

    workers: int
    last_steps: Mapping[int, int] = field(default_factory=dict)

    def of(self, worker: int) -> int:
        """Return one worker's clock."""
        return self.last_steps.get(worker, -1) + 1

    @property
    def slowest(self) -> int:
        """The least clock."""
        return min(map(self.of, range(self.workers)))

    @property
    def furthest(self) -> int:
        """The greatest clock."""
        return max(map(self.of, range(self.workers)))

    def behind(self, clock: int) -> list[int]:
        """Return the workers that have not reached `clock`."""
        return [worker for worker in range(self.workers) if self.of(worker) < clock]

    def after(self, steps: Mapping[int, int]) -> "Clocks":
        """Return the clocks once these steps of these workers are applied."""
        return Clocks(self.workers, {**self.last_steps, **steps})

    def check_bound(self, step: int, bound: int) -> None:
        """Raise OutOfRange if `step` is more than `bound` ahead of the slowest worker's."""
        if step > self.slowest + bound:
            raise OutOfRange(
                f"step {step} is more than {bound} ahead of the slowest worker's, {self.slowest}; pull with step {step}, "
                "which waits for it, then push",
                metadata={"slowest_step": self.slowest, "staleness_bound": bound},
            )
