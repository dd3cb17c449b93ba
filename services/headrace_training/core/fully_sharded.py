"""Agreement of ranks that hold a part of the parameters each: the model sums its gradients itself, and each rank updates its part.

A checkpoint is that of an all-reduce run, whole, by way of rank 0; so a run goes on with any number of ranks, sharded or not.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch

from headrace.errors import InvalidArgument
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace_optimizers.clipping import clip_factor
from headrace_optimizers.config import Optimizer
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.fused import FusedOptimizer, kind_of
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_training.core.device import Device
from headrace_training.core.group import compare_models
from headrace_training.core.model import Model
from headrace_training.core.state import Checkpoints, TrainingState
from headrace_training.core.synchronizer import refuse_tables


class Sharded(Model, Protocol):
    """A model of which this rank holds a part."""

    @property
    def parts(self) -> Mapping[str, torch.Tensor]:
        """This rank's part of each parameter, to be written to."""

    @property
    def gradient_parts(self) -> Mapping[str, torch.Tensor]:
        """This rank's part of each gradient, summed over the ranks."""

    def shard(self) -> None:
        """Take rank 0's values, and keep this rank's part of them; all ranks call."""

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """Bring the parts of all ranks together; all ranks call."""

    def part_of(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """Cut out this rank's part of what lies as a parameter does."""


class Updates:
    """The optimizer of this rank's part of each parameter: 1/n of the state of one process."""

    def __init__(self, model: Sharded, config: Optimizer, schedule: Schedule, maximum_norm: float) -> None:
        self._model, self._config, self._schedule, self._maximum_norm = model, config, schedule, maximum_norm
        self._optimizers = {
            name: FusedOptimizer(config, part.numel(), device=part.device)
            for name, part in model.parts.items()
        }

    def apply(self, step: int) -> None:
        """Do one step with the mean gradient, clipped."""
        norm = self._model.gradient_norm() if self._maximum_norm else 0.0
        weight = clip_factor(norm * norm, self._maximum_norm) if self._maximum_norm else 1.0
        factor, gradients = self._schedule.factor(step), self._model.gradient_parts
        for name, part in self._model.parts.items():
            new = self._optimizers[name].apply(part.view(-1), [(gradients[name].view(-1), weight)], factor)
            part.view(-1).copy_(new)

    def state(self, step: int) -> TrainingState:
        """Return all of the run's state, as an all-reduce run would have it; all ranks call."""
        layout, parts = self._model.layout, self._model.parts
        values = self._joined({name: part.view(-1) for name, part in parts.items()})
        states = {name: optimizer.views() for name, optimizer in self._optimizers.items()}
        kept: dict[str, torch.Tensor] = {}
        for key, first in next(iter(states.values())).items():
            kept[key] = (
                first.clone() if not first.ndim else self._joined({n: s[key] for n, s in states.items()})
            )
        return TrainingState(layout, step, kind_of(self._config), values, kept)

    def load(self, state: TrainingState) -> None:
        """Take this rank's part of a state."""
        parts = self._cut(state.values)
        for name, part in self._model.parts.items():
            part.copy_(parts[name])
        vectors = {key: self._cut(value) for key, value in state.optimizer_state.items() if value.ndim}
        scalars = {key: value for key, value in state.optimizer_state.items() if not value.ndim}
        for name, optimizer in self._optimizers.items():
            optimizer.load({key: cut[name].reshape(-1) for key, cut in vectors.items()} | scalars)

    def _joined(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        flat = torch.empty(self._model.layout.size)
        begin = 0
        for tensor in self._model.layout.tensors:
            flat[begin : begin + tensor.size] = self._model.whole(tensor.name, parts[tensor.name]).view(-1)
            begin += tensor.size
        return flat

    def _cut(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes = [tensor.size for tensor in self._model.layout.tensors]
        return {
            tensor.name: self._model.part_of(tensor.name, part.view(tensor.shape))
            for tensor, part in zip(self._model.layout.tensors, torch.split(flat, sizes), strict=True)
        }


class Ranks(Protocol):
    """The ranks of the run."""

    @property
    def rank(self) -> int:
        """This rank's number."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors."""


def checked(state: TrainingState, layout: FlatLayout, config: Optimizer, step: int) -> TrainingState:
    """Return the state if it is of this run.

    Raises:
        InvalidArgument: It is of another model, optimizer or step.
    """
    if (state.layout, state.optimizer, state.step) != (layout, kind_of(config), step):
        raise InvalidArgument(
            f"the checkpoint is of step {state.step}, {state.optimizer}, {state.layout.size} values; the run needs step "
            f"{step}, {kind_of(config)} and its own model's {layout.size}",
            field="snapshot",
        )
    return state


class FullySharded:
    """A `Team` over torch's default group.

    Args:
        join: Finds the other ranks; called when this one is ready to begin.
        make: Makes the model of a module, where it is to be, and whether it computes in bfloat16.
        snapshot, start_step, schedule, maximum_gradient_norm: As for `AllReduce`.
    """

    def __init__(
        self,
        join: Callable[[], Ranks],
        make: Callable[[torch.nn.Module, Device, bool], Sharded],
        optimizer: Optimizer,
        checkpoints: Checkpoints,
        snapshot: str = "",
        start_step: int = 0,
        schedule: Schedule = CONSTANT,
        maximum_gradient_norm: float = 0.0,
    ) -> None:
        self._join, self._make, self._config, self._checkpoints = join, make, optimizer, checkpoints
        self._snapshot, self._step = snapshot, start_step
        self._schedule, self._maximum_gradient_norm = schedule, maximum_gradient_norm

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def gradient_memory(self, size: int) -> Floats:  # noqa: ARG002 - as every synchronizer
        """Return nothing: torch's own memory is where gradients are summed."""
        return np.empty(0, np.float32)

    def hold(self, module: torch.nn.Module, device: Device, *, bf16: bool) -> Sharded:
        """Make the model."""
        self._model = self._make(module, device, bf16)
        return self._model

    def begin(
        self,
        layout: FlatLayout,
        values: torch.Tensor,  # noqa: ARG002 - the model has them
        tables: Sequence[EmbeddingTable] = (),
        buffers: Sequence[torch.Tensor] = (),  # noqa: ARG002 - nobody joins later
    ) -> Place | None:
        """Take rank 0's values, or the checkpoint's, and keep this rank's part.

        Raises:
            InvalidArgument: The model has tables, or the checkpoint is of another model, optimizer or step.
            ShapeMismatch: The ranks have different models.
        """
        refuse_tables(tables)
        loaded = self._checkpoints.load(self._snapshot) if self._snapshot else None
        self._ranks = self._join()
        compare_models(self._ranks, layout)
        self._model.shard()
        self._updates = Updates(self._model, self._config, self._schedule, self._maximum_gradient_norm)
        if loaded:
            self._updates.load(checked(loaded, layout, self._config, self._step))
        return None

    def rejoin(self) -> Place:
        """Do not: the ranks are always the same."""
        raise AssertionError("the ranks of a collective are always the same")

    def samples(self, mine: int) -> Sequence[int]:
        """Return how many samples each rank has."""
        counts = torch.zeros(self._ranks.size, dtype=torch.float64)
        counts[self._ranks.rank] = mine
        self._ranks.sum(counts)
        return [int(count) for count in counts.tolist()]

    def agreed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return rank 0's."""
        lead = self._ranks.rank == 0
        numbers = torch.tensor(
            [float(value) if lead else 0.0 for value in metrics.values()], dtype=torch.float64
        )
        self._ranks.sum(numbers)
        return dict(zip(metrics, numbers.tolist(), strict=True))

    def begin_step(self, step: int, gradient: torch.Tensor, samples: int) -> None:
        """Take gradients whole: the model has summed them by then."""

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:  # noqa: ARG002 - the model has summed
        """Update this rank's part; the model has summed the gradients."""
        self._updates.apply(step)
        self._step = step + 1
        return self._step

    def checkpoint(self) -> Sequence[str]:
        """Bring all parts together, and save them on rank 0; all ranks call."""
        state = self._updates.state(self._step)
        return (self._checkpoints.save(state),) if self._ranks.rank == 0 else ()

    def finish_run(self) -> None:
        """Do nothing: all ranks find alike that the run is over."""

    def final(self) -> None:
        """Do nothing: the values are the newest."""

    def stay(self) -> None:
        """Do nothing: with a rank a part of the model is gone, and nobody could take over."""
