"""What passes into a shard and out of it: gradients that are pushed, values that are published."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from headrace.errors import Cancelled, DataLoss, InvalidArgument, NonFiniteValues, OutOfRange
from headrace.parameters.layout import Floats
from headrace_parameters.core.memory import Readers

# Up to here a double counts without a gap, and the sum over all workers is far from an overflow, which would weigh all with 0.
MOST_SAMPLES = float(1 << 53)


@dataclass(frozen=True)
class Published:
    """Values of one version, shape (shard's length,); nobody writes to them while somebody reads.

    A worker's clock is its next step: one more than the last step whose gradient is in the values.

    Args:
        slowest: The least clock of all workers.
        furthest: The greatest.
        readers: Begin to read, and end, with these; `values.size` may be asked for at any moment.
    """

    version: int
    values: Floats
    slowest: int
    furthest: int
    readers: Readers = field(default_factory=Readers, compare=False, repr=False)

    def staleness(self, step: int | None) -> int:
        """Return how many steps the slowest worker is behind who computes `step`; None: behind the furthest worker."""
        return max(0, (self.furthest if step is None else step) - self.slowest)


def of_version(version: int, *held: Published | None) -> Published:
    """Return the values of this very version, out of those that are held; the newest come first.

    Raises:
        OutOfRange: They are gone, or not there yet.
    """
    for published in held:
        if published and published.version == version:
            return published
    newest = held[0].version if held[0] else 0
    raise OutOfRange(
        f"the shard has version {newest}, and not {version} any more, or not yet; ask which versions the shards have",
        metadata={"version": newest},
    )


class GradientLost(DataLoss):
    """A worker wrote to a gradient while it was applied, or while it waited for that although a log says that it was taken."""


class Loan(Protocol):
    """What a gradient in a worker's own memory is lent by."""

    def holds(self) -> bool:
        """Tell whether the gradient has been in its place until now."""


@dataclass(frozen=True)
class Push:
    """One worker's gradient for one step.

    Args:
        loan: While it holds, `gradient` is as it was; None: its memory is the shard's from now on.
        covers: Which of the shard's values it is for, ascending and apart; `gradient` has theirs one after the other. None: all.
    Raises:
        NonFiniteValues: The gradient holds a NaN or an infinity.
        InvalidArgument: `samples` is no weight.
    """

    worker: int
    step: int
    samples: float
    gradient: Floats
    generation: int = 0  # of the members among whom the worker computed it
    covers: tuple[range, ...] | None = None
    loan: Loan | None = None

    checked: InitVar[bool] = False  # whoever gave it to this process has looked at it as below
    finite: InitVar[bool] = False  # it is known that the gradient is

    def __post_init__(self, checked: bool, finite: bool) -> None:
        if checked:
            return
        if not 0 <= self.samples <= MOST_SAMPLES:  # a NaN is within nothing
            raise InvalidArgument(f"samples is {self.samples}; it must be 0 to 2**53", field="header.samples")
        if not finite:
            check_finite(self.gradient, f"the gradient of worker {self.worker} for step {self.step}")

    @property
    def holds(self) -> bool:
        """Whether the gradient is as it was."""
        return self.loan is None or self.loan.holds()

    def kept(self) -> "Push | None":
        """Return it with the gradient in memory of the shard's own; None: it was taken back."""
        if self.loan is None:
            return self
        copy = replace(self, gradient=self.gradient.copy(), loan=None, checked=True)
        return copy if self.holds else None


def check_held(pushes: Mapping[int, Push]) -> None:
    """Raise GradientLost unless all gradients, which have been applied, were in their place until now."""
    lost = sorted(worker for worker, push in pushes.items() if not push.holds)
    if lost:
        raise GradientLost(
            f"workers {lost} wrote to gradients that were being applied, so the values are of no use: go on from a checkpoint"
        )


def check_waiting(pushes: Mapping[int, Push]) -> None:
    """Raise GradientLost unless all gradients, which wait for others and are in a log, are in their place."""
    lost = sorted(worker for worker, push in pushes.items() if not push.holds)
    if lost:
        raise GradientLost(
            f"workers {lost} wrote to gradients that had been taken, and only the log has them now: restart the process of the store"
        )


@contextmanager
def lost_if_taken_back(*, logged: bool) -> Iterator[None]:
    """Raise GradientLost where the block raises Cancelled, if a log may have the gradient by now."""
    try:
        yield
    except Cancelled as error:
        if logged:
            raise GradientLost(f"{error.message}, but it was being written to the log") from error
        raise


def check_finite(values: Floats, what: str) -> None:
    """Raise NonFiniteValues, naming the first place, if `values` holds a NaN or an infinity."""
    tensor = torch.from_numpy(values)
    # The sum is cheap, needs no memory and is finite only if all values are; large finite ones may overflow it.
    if math.isfinite(tensor.sum().item()) or torch.isfinite(tensor).all():
        return
    place = int(np.argmin(np.isfinite(values)))
    raise NonFiniteValues(
        f"{what} holds {values[place]} at offset {place} of the shard; nothing was applied: lower the learning rate or skip the batch",
        metadata={"offset": place},
    )
