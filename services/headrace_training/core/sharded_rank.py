"""A rank that holds a part of the model alone: whatever computes with the model takes all ranks, so all do it alike.

All ranks go through the same forward and backward passes in a step, also those whose share of the batch is smaller, or empty: they
compute with examples that count for nothing. All evaluate; what rank 0 measured counts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from headrace.data.rows import divided
from headrace.errors import RunFinished
from headrace.program import Examples, Program, Split
from headrace.program.calls import OpenDataset
from headrace_training.core.device import HOST, Device
from headrace_training.core.evaluation import Evaluation
from headrace_training.core.examples import Batch
from headrace_training.core.model import Model
from headrace_training.core.order import noise_seed
from headrace_training.core.rank import Observer, Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from headrace_training.core.synchronizer import Synchronizer


class Team(Synchronizer, Protocol):
    """A `Synchronizer` of ranks that hold a part each."""

    def hold(self, module: torch.nn.Module, device: Device, *, bf16: bool) -> Model:
        """Make the model, whose parameters this rank has a part of once it has begun."""

    def samples(self, mine: int) -> Sequence[int]:
        """Return how many samples each rank has in this step; all ranks call."""

    def agreed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return what rank 0 gives; all ranks call, with the same names."""


class ShardedRank(Rank):
    """A `Rank` whose synchronizer is a `Team`."""

    _synchronizer: Team

    def __init__(
        self,
        program: Program,
        run: Run,
        team: Team,
        observer: Observer,
        clock: Callable[[], float],
        open_dataset: OpenDataset,
        device: Device = HOST,
    ) -> None:
        """Make the model, as `Rank` does."""
        super().__init__(_Agreeing(program, team), run, team, observer, clock, open_dataset, device)
        if self._evaluation is None:
            self._evaluation = Evaluation(self._program, run, _Silent(), open_dataset)

    def _hold(self, module: torch.nn.Module) -> Model:
        return self._synchronizer.hold(module, self._device, bf16=self._run.bf16)

    @property
    def leads(self) -> bool:
        """Whether it is rank 0."""
        return self._run.rank == 0

    def _step(self, step: int) -> int:
        run, place, began = self._run, self._place, self._clock()
        mine = self._feed(step, place.index, place.count)
        self.model.begin(step)
        samples = self._synchronizer.samples(len(mine))
        torch.manual_seed(noise_seed(run.seed, place.index, step))
        with self._flops.counting(max(1, len(mine))):
            loss = self._passes(step, mine, samples)
        if len(mine):
            self.metrics["loss"] = loss * sum(samples) / len(mine)
        self._check_gradient(step)
        self._own_time.add(self._clock() - began)
        following = self._synchronizer.step(step, self.model.gradient, len(mine))
        self._throughput.add(len(mine))
        return following

    def _passes(self, step: int, mine: Examples, samples: Sequence[int]) -> float:
        """Compute as often as the rank with the most to do, and return this rank's part of the mean loss."""
        passes = max(min(self._run.accumulate, each) for each in samples)
        parts = list(divided(mine, self._run.accumulate)) if len(mine) else []
        spare = mine if parts else self._feed(step, 0, 1)
        loss = sum(self._backward(step, part, len(part) / sum(samples)) for part in parts)
        for _ in range(passes - len(parts)):
            self._backward(step, spare, 0.0)
        return loss

    def _loss(self, batch: Batch) -> object:
        # Without autocast: the model's own policy says what is computed in bfloat16.
        return self._program.loss(self.model.module(**batch.inputs), batch.targets)

    def _checkpoint(self, done: int) -> None:
        saved = self._synchronizer.checkpoint()
        if self.leads:
            self._observer.checkpointed(done, saved)

    def _finish_run_if_best_is_past(self) -> None:
        if self._evaluation and self._evaluation.gives_up(self.step):
            raise RunFinished(f"no better values came up to step {self.step}")


class _Agreeing:
    """A program whose measures are those of rank 0 on all ranks."""

    def __init__(self, program: Program, team: Team) -> None:
        self._program, self._team = program, team
        self.goal = program.goal

    def model(self) -> torch.nn.Module:
        return self._program.model()

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return self._program.loss(outputs, targets)

    def data(self, split: Split) -> Any:
        return self._program.data(split)

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        return self._team.agreed(self._program.metrics(outputs, targets))


class _Silent:
    """Hears what rank 0 tells of."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        pass
