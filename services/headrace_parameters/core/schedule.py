"""The learning rate as a function of the step, and of nothing else: a resumed run goes on with the rate it would have had."""

import math
from dataclasses import dataclass
from enum import Enum

from headrace_parameters.core.bounds import check


class Decay(Enum):
    """How a learning rate goes down after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a decay.

    Args:
        warmup_steps: Steps before the full learning rate is reached.
        decay_steps: LINEAR, COSINE: steps from the full rate to the floor; STEP: steps between two reductions.
        floor: Least factor of the learning rate, 0 to 1; the warm-up may lie below it.
        decay_factor: STEP: what each reduction multiplies the rate with.
    """

    decay: Decay = Decay.CONSTANT
    warmup_steps: int = 0
    decay_steps: int = 0
    floor: float = 0.0
    decay_factor: float = 0.0

    def __post_init__(self) -> None:
        prefix = "optimizer.schedule"
        check(f"{prefix}.warmup_steps", self.warmup_steps, "0 or more", self.warmup_steps >= 0)
        if self.decay is Decay.CONSTANT:
            check(f"{prefix}.decay_steps", self.decay_steps, "0 without a decay", self.decay_steps == 0)
            check(f"{prefix}.floor", self.floor, "0 without a decay", self.floor == 0)
        else:
            check(f"{prefix}.decay_steps", self.decay_steps, "1 or more", self.decay_steps >= 1)
            check(f"{prefix}.floor", self.floor, "0 to 1", 0 <= self.floor <= 1)
        stepwise = self.decay is Decay.STEP
        fits = 0 < self.decay_factor < 1 if stepwise else self.decay_factor == 0
        bounds = "above 0 and below 1" if stepwise else "0 unless the decay is STEP"
        check(f"{prefix}.decay_factor", self.decay_factor, bounds, fits)

    def factor(self, step: int) -> float:
        """Return what the learning rate is multiplied with in step 0, 1, 2, ..."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        past = step - self.warmup_steps
        if self.decay is Decay.CONSTANT:
            return 1.0
        if self.decay is Decay.STEP:
            return max(self.floor, self.decay_factor ** (past // self.decay_steps))
        part = min(past, self.decay_steps) / self.decay_steps
        left = 1 - part if self.decay is Decay.LINEAR else (1 + math.cos(math.pi * part)) / 2
        return self.floor + (1 - self.floor) * left


CONSTANT = Schedule()
