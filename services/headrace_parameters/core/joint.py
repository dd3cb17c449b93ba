"""Steps that no shard takes alone: they wait for norms of the whole model, of which each shard has a part."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


def check_norms(norms: Norms, squared_norms: Sequence[float], tensors: int) -> None:
    """Raise InvalidArgument unless these can be norms of a step: as many as there must be, finite, 0 or more."""
    field, count = ("squared_norm", 1) if norms is Norms.GRADIENT else ("tensor_norms", 2 * tensors)
    if len(squared_norms) != count:
        raise InvalidArgument(
            f"{field} has {len(squared_norms)} numbers; add up the {count} of each shard", field=field
        )
    for norm in squared_norms:
        if not math.isfinite(norm) or norm < 0:
            raise InvalidArgument(f"{field} is {norm}; add up those of all shards", field=field)


class JointSteps:
    """The step that a shard holds, if it does, and what it measured of the last ones.

    Args:
        tensor_norms: A shard's method that measures Norms.TENSORS of a held step and changes nothing. It is referred to weakly, so that
            the shard's memory goes with its last user, not when the garbage collector comes by.
    """

    def __init__(self, config: StoreConfig, tensor_norms: Callable[[HeldStep], Sequence[float]]) -> None:
        self._config = config
        self._tensor_norms = WeakMethod(tensor_norms)
        self.held: HeldStep | None = None
        self.measured: Mapping[Norms, Measured] = {}  # may be read at any moment

    def hold(self, version: int, held: HeldStep) -> None:
        """Keep a complete step, which makes the version after this one, and measure what it waits for."""
        if held.weight is None:
            norms, squared = Norms.GRADIENT, [held.squared_norm]
        else:
            measure = self._tensor_norms()
            assert measure is not None, "whoever has the steps has the shard"
            norms, squared = Norms.TENSORS, list(measure(held))
        self.held = held
        # Kept when the step is applied: a worker that finishes it may die before it has told the other shards.
        self.measured = {**self.measured, norms: Measured(version, squared)}

    def finish(
        self, version: int, step: int, norms: Norms, squared_norms: Sequence[float]
    ) -> HeldStep | None:
        """Let the held step go on with these norms, over all shards; return it if it can be applied now.

        Raises:
            FailedPrecondition: The step is not complete, or waits for other norms first.
        """
        name = self._config.name
        if norms not in self._config.joint_norms:
            raise FailedPrecondition(
                f"{name} applies complete steps without norms of {norms.value}; pull instead"
            )
        if step < version:
            return None
        held = self.held
        if held is None or step > version:
            raise FailedPrecondition(f"step {step} of {name} is not complete; ask for its norm first")
        if norms is Norms.GRADIENT:
            return self._clip(version, held, squared_norms[0])
        if held.weight is None:
            raise FailedPrecondition(f"step {step} of {name} is not clipped; tell its gradient's norm first")
        self.held = None
        return held

    def _clip(self, version: int, held: HeldStep, squared_norm: float) -> HeldStep | None:
        if held.weight is not None:
            return None  # somebody told it before
        clipped = held.clipped(squared_norm, self._config.maximum_gradient_norm)
        if Norms.TENSORS in self._config.joint_norms:
            self.hold(version, clipped)
            return None
        self.held = None
        return clipped
