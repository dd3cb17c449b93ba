"""Steps that no shard takes alone: they wait for norms of the whole model, of which each shard has a part."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakMethod

import torch

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace_optimizers.clipping import clip_factor, squared_norm
from headrace_parameters.core.config import Norms, StoreConfig


@dataclass(frozen=True)
class Measured:
    """The squared norms of this shard's part, in the last step that came so far."""

    step: int
    squared_norms: Sequence[float]


@dataclass(frozen=True)
class StepNorms:
    """What lets a complete step go on: its squared norms over all shards.

    Args:
        squared: As many numbers as `Norms` says, finite and 0 or more.
    """

    step: int
    norms: Norms
    squared: tuple[float, ...]

    def check(self, tensors: int) -> None:
        """Raise InvalidArgument unless these can be norms of a step of a model with so many tensors."""
        gradient = self.norms is Norms.GRADIENT
        field, count = ("squared_norm", 1) if gradient else ("tensor_norms", 2 * tensors)
        if len(self.squared) != count:
            raise InvalidArgument(
                f"{field} has {len(self.squared)} numbers; add up the {count} of each shard", field=field
            )
        for norm in self.squared:
            if not math.isfinite(norm) or norm < 0:
                raise InvalidArgument(f"{field} is {norm}; add up those of all shards", field=field)


@dataclass(frozen=True)
class HeldStep:
    """A complete step that waits.

    Args:
        steps: The step that each of its workers pushed.
        mean: Shape (shard's length,); None if the step has no samples.
        weight: What the mean is multiplied with, once it is clipped, or need not be; None before.
    """

    steps: Mapping[int, int]
    mean: torch.Tensor | None
    weight: float | None

    @property
    def gradients(self) -> list[tuple[torch.Tensor, float]]:
        """What an optimizer applies."""
        return [] if self.mean is None or self.weight is None else [(self.mean, self.weight)]

    @property
    def squared_norm(self) -> float:
        """That of the mean."""
        return 0.0 if self.mean is None else squared_norm(self.mean)

    def clipped(self, squared_norm: float, maximum: float) -> "HeldStep":
        """Return it with the weight that bounds a gradient of this norm."""
        return replace(self, weight=clip_factor(squared_norm, maximum))


def hold(
    steps: Mapping[int, int], gradients: Sequence[tuple[torch.Tensor, float]], weight: float | None
) -> HeldStep:
    """Sum weighted gradients up, in memory of its own."""
    if not gradients:
        return HeldStep(steps, None, weight)
    (first, share), *others = gradients
    mean = first * share
    for gradient, share in others:
        mean.add_(gradient * share)
    return HeldStep(steps, mean, weight)


class ClippedRows(Protocol):
    """The tables of a store, whose gradients are clipped with those of the dense values."""

    def squared_norm(self) -> float | None:
        """Return that of the complete step's gradients, of all tables here; None: a table's step is not complete."""

    def finish(self, weight: float) -> None:
        """Apply the complete step of each table, times a weight."""


class JointSteps:
    """The step that a shard holds, if it does, and what it measured of the last ones.

    Args:
        tensor_norms: A shard's method that measures Norms.TENSORS of a held step and changes nothing. It is referred to weakly, so that
            the shard's memory goes with its last user, not when the garbage collector comes by.
        measured: Of the last step that was applied.
    """

    def __init__(
        self,
        config: StoreConfig,
        tensor_norms: Callable[[HeldStep], Sequence[float]],
        measured: Mapping[Norms, Measured] | None = None,
    ) -> None:
        self._config = config
        self._tensor_norms = WeakMethod(tensor_norms)
        self.rows: ClippedRows | None = None  # what is clipped with the dense values
        self.held: HeldStep | None = None
        self.measured: Mapping[Norms, Measured] = measured or {}  # may be read at any moment

    def hold(self, version: int, held: HeldStep) -> None:
        """Keep a complete step, which makes the version after this one, and measure what it waits for, if all of that is there."""
        self.held = held
        self.measure(version)

    def measure(self, version: int) -> None:
        """Measure what the held step waits for; gradients of rows may come after the dense ones."""
        held = self.held
        if held is None:
            return
        if held.weight is None:
            rows = self.rows.squared_norm() if self.rows else 0.0
            if rows is None:
                return
            norms, squared = Norms.GRADIENT, [held.squared_norm + rows]
        else:
            measure = self._tensor_norms()
            assert measure is not None, "whoever has the steps has the shard"
            norms, squared = Norms.TENSORS, list(measure(held))
        # Kept when the step is applied: a worker that finishes it may die before it has told the other shards.
        self.measured = {**self.measured, norms: Measured(version, squared)}

    def awaits_rows(self, version: int) -> bool:
        """Whether the dense gradients of the step are there, and some of rows are not."""
        measured = self.measured.get(Norms.GRADIENT)
        return (
            self.held is not None and self.held.weight is None and (not measured or measured.step < version)
        )

    def alone(self, version: int) -> HeldStep | None:
        """Return the held step, clipped by the norm of what is here, if that is the whole model and all of it is there."""
        if self.held is None or self._config.joint_norms or self.awaits_rows(version):
            return None
        return self._clip(version, self.held, self.measured[Norms.GRADIENT].squared_norms[0])

    def wait_for(self, version: int, told: StepNorms) -> bool:
        """Tell whether the step that is held waits for these norms; False: it, or a later one, has them already.

        Raises:
            FailedPrecondition: The step is not complete, or waits for other norms first.
        """
        name, step = self._config.name, told.step
        if told.norms not in self._config.joint_norms:
            raise FailedPrecondition(
                f"{name} applies complete steps without norms of {told.norms.value}; pull instead"
            )
        if step < version:
            return False
        if self.held is None or step > version or self.awaits_rows(version):
            raise FailedPrecondition(f"step {step} of {name} is not complete; ask for its norm first")
        clipped = self.held.weight is not None
        if told.norms is Norms.GRADIENT:
            return not clipped
        if not clipped:
            raise FailedPrecondition(f"step {step} of {name} is not clipped; tell its gradient's norm first")
        return True

    def go_on(self, version: int, told: StepNorms) -> HeldStep | None:
        """Let the held step go on with norms that it waits for; return it if it can be applied now."""
        held = self.held
        assert held is not None, "whoever calls has asked what it waits for"
        if told.norms is Norms.GRADIENT:
            return self._clip(version, held, told.squared[0])
        self.held = None
        return held

    def _clip(self, version: int, held: HeldStep, squared_norm: float) -> HeldStep | None:
        clipped = held.clipped(squared_norm, self._config.maximum_gradient_norm)
        if Norms.TENSORS in self._config.joint_norms:
            self.hold(version, clipped)
            return None
        self.held = None
        return clipped
