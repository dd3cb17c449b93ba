"""Agreement now and then: each rank applies its own gradients, and every few steps the ranks take the mean of their values."""

from collections.abc import Callable

import torch

from headrace.parameters.layout import Floats
from headrace_optimizers.config import Optimizer
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_training.core.all_reduce import AllReduce, Checkpoints, Group


class LocalSgd(AllReduce):
    """A `Synchronizer` that talks to the other ranks once in `average_every` steps (Stich 2019, arXiv:1805.09767).

    Momentum and moments stay each rank's own; a checkpoint has rank 0's, which all ranks go on with.

    Args:
        average_every: Steps from one mean to the next, >= 1.
        last_step: The mean is taken after so many steps in any case.
        join, optimizer, checkpoints, snapshot, start_step, schedule: As for `AllReduce`.
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
    ) -> None:
        super().__init__(join, optimizer, checkpoints, snapshot, start_step, schedule)
        self._average_every, self._last_step = average_every, last_step
        self._samples = 0  # since the last mean

    def step(self, step: int, gradient: Floats, samples: int) -> int:
        """Apply the rank's own gradient, and take the mean of all ranks' values, weighted by their samples, if it is time."""
        if samples:
            self._apply(step, torch.from_numpy(gradient))
        self._samples += samples
        self._step = step + 1
        if self._step % self._average_every == 0 or self._step == self._last_step:
            self._values.copy_(self._mean(self._values, self._samples))
            self._samples = 0
        return self._step
