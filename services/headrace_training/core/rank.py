"""One rank of a run: computes gradients, step by step, and trades them for new values at the parameter store.

BatchNorm and other buffers are not parameters: each rank keeps its own, and those of rank 0 are saved.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from headrace.errors import NonFiniteValues, ProgramFailed
from headrace.parameters.layout import FlatLayout, Floats
from headrace.program import Program
from headrace_training.core import examples
from headrace_training.core.flat_model import FlatModel
from headrace_training.core.order import DataOrder, noise_seed
from headrace_training.core.run import Run
from headrace_training.core.throughput import Throughput


class Pulled(Protocol):
    """Values that were written where the caller wanted them."""

    @property
    def next_step(self) -> int:
        """After a push: the step to compute with them; more than one on if the run went on without this rank."""


class Snapshot(Protocol):
    """A store that was saved."""

    @property
    def artifacts(self) -> Sequence[str]:
        """One artifact per shard."""


class ParameterStore(Protocol):
    """What a rank asks of the parameter store; `headrace.parameters.client.ShardedStore` is one."""

    def gradient_memory(self, size: int) -> Floats:
        """Return zeros, shape (size,), from where a gradient travels with the fewest copies."""

    def initialize(self, layout: FlatLayout, values: Floats) -> int:
        """Give the store its first values, unless it has some."""

    def pull(self, *, out: Floats) -> object:
        """Write the newest values to `out`."""

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        """Send a gradient with its weight, and write the values that hold it to `out`."""

    def snapshot(self) -> Snapshot:
        """Save the store."""


class Observer(Protocol):
    """Who hears how the rank fares."""

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        """`step` steps are done."""

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        """The store was saved after `step` steps."""

    def raise_if_stopped(self) -> None:
        """Raise Cancelled if the rank should end."""


class Rank:
    """A rank and its model. Seeds torch's global generator: one rank per process."""

    def __init__(
        self,
        program: Program,
        run: Run,
        store: ParameterStore,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        """Make the model and read the data.

        Args:
            clock: Returns seconds, for the throughput.
        """
        self._program, self._run, self._store, self._observer = program, run, store, observer
        self._train = examples.load(program, "train")
        self._validation = examples.load(program, "validation") if run.rank == 0 else None
        torch.manual_seed(run.seed)
        self.model = FlatModel(examples.make_model(program), store.gradient_memory)
        self._order = DataOrder(len(self._train), run.batch_size, run.seed)
        self._throughput = Throughput(clock)
        self.metrics: dict[str, float] = {}

    def train(self) -> None:
        """Do all steps; `metrics` then has the newest measures, and the model the last values.

        Raises:
            NonFiniteValues: The loss or the gradient became NaN or infinite.
            ProgramFailed: `loss()` returned no scalar.
            Cancelled: The observer asked to stop.
        """
        model, run = self.model, self._run
        model.module.train()
        self._store.initialize(model.layout, model.values)
        self._store.pull(out=model.values)
        step = run.start_step
        while step < run.steps:
            self._observer.raise_if_stopped()
            following = min(max(step + 1, self._step(step)), run.steps)
            self._finish_steps(step, following)
            step = following
        if run.start_step == run.steps and run.rank == 0:
            self._evaluate()

    def evaluate_test(self) -> dict[str, float]:
        """Measure the newest values on the test split."""
        self._store.pull(out=self.model.values)
        return examples.evaluate(self._program, self.model.module, examples.load(self._program, "test"))

    def _step(self, step: int) -> int:
        """Do one step and return the next."""
        run = self._run
        mine = self._order.share(step, run.rank, run.world_size)
        self.model.clear_gradient()
        if len(mine):
            torch.manual_seed(noise_seed(run.seed, run.rank, step))
            self.metrics["loss"] = self._backward(step, examples.take(self._train, mine))
        try:
            pulled = self._store.push_pull(step, self.model.gradient, len(mine), out=self.model.values)
        except NonFiniteValues as error:
            raise NonFiniteValues(f"the gradient is not finite in step {step}: {error.message}") from error
        self._throughput.add(len(mine))
        return pulled.next_step

    def _backward(self, step: int, batch: examples.Batch) -> float:
        """Add the gradient of the batch's mean loss to the model's, and return the loss."""
        outputs = self.model.module(**batch.inputs)
        loss: object = self._program.loss(outputs, batch.targets)  # no type checker has seen the user's code
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise ProgramFailed(
                f"loss() returned {_describe(loss)}; return the mean over the batch, a scalar computed from the outputs"
            )
        value = loss.item()
        if not torch.isfinite(loss):
            raise NonFiniteValues(
                f"the loss is {value} in step {step}; lower the learning rate, or look for such values in the data"
            )
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value

    def _finish_steps(self, before: int, done: int) -> None:
        if self._run.evaluates_between(before, done):
            self._evaluate()
        self.metrics["samples_per_s"] = self._throughput.samples_per_s
        self._observer.advanced(done, self.metrics)
        if self._run.checkpoints_between(before, done):
            # Between two steps of this rank no step can be applied: under BSP (without backup workers) the snapshot is of one version.
            self._observer.checkpointed(done, self._store.snapshot().artifacts)

    def _evaluate(self) -> None:
        assert self._validation is not None, "only rank 0 evaluates"
        self.metrics |= examples.evaluate(self._program, self.model.module, self._validation)


def _describe(loss: object) -> str:
    if isinstance(loss, torch.Tensor):
        return f"shape {list(loss.shape)}, requires_grad {loss.requires_grad}"
    return f"a {type(loss).__name__}"
