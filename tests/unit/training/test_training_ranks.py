"""Ranks in threads against a store in memory, compared with a plain loop."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from headrace.errors import Cancelled, InvalidArgument, NonFiniteValues, ProgramFailed
from headrace.parameters.layout import Floats
from headrace.program import Examples, Split
from headrace.testing import FakeClock
from headrace_training.core.flat_model import FlatModel
from headrace_training.core.order import DataOrder
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from tests.unit.training.lockstep_store import LockstepStore, MakeOptimizer
from tests.unit.training.small_program import Array, Small

RUN = Run(steps=50, batch_size=16, seed=3)


def sgd(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


OPTIMIZERS = pytest.mark.parametrize("make_optimizer", [sgd, adamw])


@dataclass
class Heard:
    """An observer that remembers."""

    steps: list[int] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    checkpoints: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    stop_after: int | None = None

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.metrics.append(dict(metrics))

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        self.checkpoints.append((step, tuple(snapshots)))

    def raise_if_stopped(self) -> None:
        if self.stop_after is not None and len(self.steps) >= self.stop_after:
            raise Cancelled("stopped")


def train(program: Small, run: Run, store: LockstepStore, heard: Heard | None = None) -> Rank:
    rank = Rank(program, run, store, heard or Heard(), FakeClock())
    rank.train()
    return rank


def train_all(store: LockstepStore, run: Run) -> list[Rank]:
    """Train all ranks of `run`. Made one after the other: making a model draws from torch's global generator."""
    ranks = [
        Rank(Small(), replace(run, rank=rank, world_size=store.workers), store, Heard(), FakeClock())
        for rank in range(store.workers)
    ]
    with ThreadPoolExecutor(store.workers) as pool:
        for done in [pool.submit(rank.train) for rank in ranks]:
            done.result(timeout=60)
    return ranks


def single_process(make_optimizer: MakeOptimizer, run: Run) -> Floats:
    """Train as anyone would with torch alone; return all parameters as one vector."""
    program = Small()
    data, order = program.data("train"), DataOrder(50, run.batch_size, run.seed)
    torch.manual_seed(run.seed)
    model = program.model()
    optimizer = make_optimizer(list(model.parameters()))
    for step in range(run.steps):
        chosen = order.batch(step)
        optimizer.zero_grad()
        outputs = model(torch.from_numpy(data.inputs["input"][chosen]))
        loss = program.loss(outputs, torch.from_numpy(data.targets[chosen]))
        torch.autograd.backward(loss)
        optimizer.step()
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in model.parameters()])


@OPTIMIZERS
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ranks_together_equal_a_single_process(make_optimizer: MakeOptimizer, workers: int) -> None:
    store = LockstepStore(workers, make_optimizer)
    ranks = train_all(store, RUN)
    expected = single_process(make_optimizer, RUN)
    for rank in ranks:
        np.testing.assert_allclose(rank.model.values, expected, rtol=0, atol=1e-5)


@OPTIMIZERS
def test_more_ranks_than_examples_in_a_batch_change_nothing(make_optimizer: MakeOptimizer) -> None:
    """50 examples in batches of 16 leave 2 for the last batch: a third rank has none."""
    run = replace(RUN, batch_size=2, steps=10)
    store = LockstepStore(3, make_optimizer)
    train_all(store, run)
    np.testing.assert_allclose(
        store.values.detach().numpy(), single_process(make_optimizer, run), rtol=0, atol=1e-5
    )


@OPTIMIZERS
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(make_optimizer: MakeOptimizer) -> None:
    """The store keeps its optimizer's state, as a restored snapshot does; the ranks bring nothing but the step."""
    store = LockstepStore(1, make_optimizer)
    with pytest.raises(Cancelled):
        train(Small(), RUN, store, Heard(stop_after=20))
    assert store.version == 20
    resumed = train(Small(), replace(RUN, start_step=20), store)
    whole = train(Small(), RUN, LockstepStore(1, make_optimizer))
    np.testing.assert_array_equal(resumed.model.values, whole.model.values)


def test_rank_0_evaluates_and_checkpoints_when_it_is_time() -> None:
    store, heard = LockstepStore(1, sgd), Heard()
    train(Small(), replace(RUN, steps=10, checkpoint_every=4, evaluate_every=5), store, heard)
    assert heard.steps == list(range(1, 11))
    assert heard.checkpoints == [(4, ("snapshot-4",)), (8, ("snapshot-8",))]
    assert ["accuracy" in metrics for metrics in heard.metrics] == [False] * 4 + [True] * 6


def test_other_ranks_neither_evaluate_nor_checkpoint() -> None:
    store, heard = LockstepStore(1, sgd), Heard()
    run = replace(RUN, steps=3, rank=1, world_size=2, checkpoint_every=1, evaluate_every=1)
    train(Small(), run, store, heard)
    assert heard.checkpoints == []
    assert "accuracy" not in heard.metrics[-1]


def test_the_throughput_counts_own_samples_from_the_end_of_the_first_step() -> None:
    clock = FakeClock()

    class Ticking(Heard):
        def raise_if_stopped(self) -> None:
            clock.advance(2)

    rank = Rank(Small(), replace(RUN, steps=3), LockstepStore(1, sgd), Ticking(), clock)
    rank.train()
    assert rank.metrics["samples_per_s"] == 16 * 2 / 4


def test_the_loss_goes_down_and_the_test_split_is_measured() -> None:
    heard = Heard()
    rank = train(Small(), replace(RUN, steps=200), LockstepStore(1, adamw), heard)
    assert heard.metrics[-1]["loss"] < heard.metrics[0]["loss"] / 2
    assert rank.evaluate_test()["accuracy"] > 0.85


def test_a_run_whose_steps_are_all_done_still_evaluates() -> None:
    rank = train(Small(), replace(RUN, start_step=50), LockstepStore(1, sgd))
    assert "accuracy" in rank.metrics


class LossOfNan(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() * float("nan")


class LossPerSample(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1)


class GradientOfInfinity(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs * 0).abs().sqrt().sum()


class WrongGoal(Small):
    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        return {"recall": 1.0}


class NoData(Small):
    def data(self, split: Split) -> Examples:
        return Examples({"input": np.zeros((0, 4), np.float32)}, np.zeros(0, np.int64))


class OddData(Small):
    def data(self, split: Split) -> Examples:
        return Examples({"input": np.zeros((3, 4), np.float32)}, np.zeros(2, np.int64))


class DoubleModel(Small):
    def model(self) -> torch.nn.Module:
        return super().model().double()


class LossAsNumber(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1.0  # type: ignore[return-value]  # a user's mistake


class NoModel(Small):
    def model(self) -> torch.nn.Module:
        return None  # type: ignore[return-value]  # a user's mistake


class MetricsMissing(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return None  # type: ignore[return-value]  # a user's mistake


class MetricAsText(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {"accuracy": "high"}  # type: ignore[dict-item]  # a user's mistake


class ManyMetrics(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {str(number): 1.0 for number in range(101)}


class NoExamples(Small):
    def data(self, split: Split) -> Examples:
        return None  # type: ignore[return-value]  # a user's mistake


class FrozenModel(Small):
    def model(self) -> torch.nn.Module:
        return super().model().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("program", "error", "says"),
    [
        (LossOfNan(), NonFiniteValues, "loss is nan in step 0"),
        (GradientOfInfinity(), NonFiniteValues, "gradient is not finite in step 0"),
        (LossPerSample(), ProgramFailed, r"shape \[16\].*a scalar"),
        (LossAsNumber(), ProgramFailed, r"loss\(\) returned a float; return the mean"),
        (NoModel(), ProgramFailed, r"model\(\) returned a NoneType; return a torch.nn.Module"),
        (
            NoExamples(),
            ProgramFailed,
            r"data\('train'\) returned a NoneType; return headrace.program.Examples",
        ),
        (MetricsMissing(), ProgramFailed, r"metrics\(\) returned a NoneType; return a dict of numbers"),
        (ManyMetrics(), ProgramFailed, r"metrics\(\) returned 101 numbers; return at most 100"),
        (MetricAsText(), ProgramFailed, r"metrics\(\) returned 'high' as 'accuracy'; return a number"),
        (WrongGoal(), ProgramFailed, "returns recall, but the goal is 'accuracy'"),
        (NoData(), ProgramFailed, r"data\('train'\) has 0 examples"),
        (OddData(), ProgramFailed, "3 of input 'input' and 2 targets"),
        (DoubleModel(), InvalidArgument, r"parameter '0\.weight' is float64; make it float32"),
        (FrozenModel(), InvalidArgument, "nothing to train"),
    ],
)
def test_a_program_with_a_mistake_ends_with_what_is_wrong(
    program: Small, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        train(program, replace(RUN, steps=1), LockstepStore(1, sgd))


def test_a_flat_model_computes_on_its_vector_and_adds_gradients_to_the_other() -> None:
    linear = torch.nn.Linear(2, 1)
    weight = linear.weight.detach().clone()
    model = FlatModel(torch.nn.Sequential(linear, torch.nn.BatchNorm1d(1)))
    np.testing.assert_array_equal(model.values[:2], weight.numpy().ravel())
    model.values[...] = [2, 3, 1, 1, 0]  # weight, bias, scale and shift of the norm
    assert linear(torch.ones(1, 2)).item() == 6
    torch.autograd.backward(linear(torch.ones(1, 2)).sum())
    np.testing.assert_array_equal(model.gradient[:3], [1, 1, 1])
    assert "1.running_mean" in model.state()


def test_a_frozen_parameter_is_saved_but_does_not_travel() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
    module[0].requires_grad_(requires_grad=False)
    model = FlatModel(module)
    assert [tensor.name for tensor in model.layout.tensors] == ["1.weight", "1.bias"]
    assert set(model.state()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
