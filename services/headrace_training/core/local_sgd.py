"""Agreement now and then: each rank applies its own gradients, and every few steps the ranks take the mean of their values."""

from collections.abc import Callable

import torch

from headrace_optimizers.config import Optimizer
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_training.core.agreement import Member
from headrace_training.core.all_reduce import SAMPLES, AllReduce
from headrace_training.core.group import Group
from headrace_training.core.state import Checkpoints


class LocalSgd(AllReduce):
    """A `Synchronizer` that talks to the other ranks once in `average_every` steps (Stich 2019, arXiv:1805.09767).

    Momentum and moments stay each rank's own; a checkpoint has rank 0's, which all ranks go on with.

    Members change where a mean is due: those that are left go on with their own values, and one that joins takes part in the mean with
    another one's, which count for nothing.

    Args:
        average_every: Steps from one mean to the next, >= 1.
        last_step: The mean is taken after so many steps in any case.
        join, optimizer, checkpoints, snapshot, start_step, schedule, member: As for `AllReduce`.
    """

    def __init__(
        self,
        average_every: int,
        last_step: int,
        join: Callable[[], Group],
        optimizer: Optimizer,
        checkpoints: Checkpoints,
        snapshot: str = "",
        start_step: int = 0,
        schedule: Schedule = CONSTANT,
        member: Member | None = None,
    ) -> None:
        super().__init__(join, optimizer, checkpoints, snapshot, start_step, schedule, member=member)
        self._average_every, self._last_step = average_every, last_step
        self._samples = 0  # since the last mean

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:
        """Apply the rank's own gradient, and take the mean of all ranks' values, weighted by their samples, if it is time."""
        if samples:
            self._apply(step, gradient)
        self._samples += samples
        self._step = step + 1
        self._complete = self._step % self._average_every != 0 and self._step != self._last_step
        self._catch_up()
        return self._step

    def _catch_up(self) -> None:
        """Take the mean if it is due, of the ranks there are now."""
        if self._complete:
            return
        mean = self._mean(self._values, self._samples)
        if self._vector[SAMPLES] > 0:  # else whoever is left had nothing to do, and keeps what it has
            self._values.copy_(mean)
        self._samples, self._complete = 0, True

    def _took_over(self) -> None:
        self._samples = 0
