"""Ranks in threads against a store in memory, compared with a plain loop."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch

from headrace.errors import Cancelled
from headrace.parameters.layout import Floats
from headrace.testing import FakeClock
from headrace_optimizers.config import AdamW, Sgd
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.early_gradient import Early
from headrace_training.core.group import Group
from headrace_training.core.order import DataOrder
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from headrace_training.core.synchronizer import Synchronizer
from tests.unit.training.lockstep_group import LockstepGroup, Shelf, lockstep_groups
from tests.unit.training.lockstep_store import LockstepStore, MakeOptimizer
from tests.unit.training.small_program import Small

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
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    led_from: int | None = None
    found: Best | None = None
    best: list[Best] = field(default_factory=list)
    best_state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    stop_after: int | None = None

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.metrics.append(dict(metrics))

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        self.checkpoints.append((step, tuple(snapshots)))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.evaluations.append((step, dict(metrics)))

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        self.best.append(best)
        self.best_state = state

    def took_lead(self, step: int) -> Best | None:
        self.led_from = step
        return self.found

    def raise_if_stopped(self) -> None:
        if self.stop_after is not None and len(self.steps) >= self.stop_after:
            raise Cancelled("stopped")


def train(program: Small, run: Run, store: LockstepStore, heard: Heard | None = None) -> Rank:
    rank = Rank(program, run, ParameterServer(store), heard or Heard(), FakeClock())
    rank.train()
    return rank


def over_store(make_optimizer: MakeOptimizer, workers: int) -> list[Synchronizer]:
    store = LockstepStore(workers, make_optimizer)
    return [ParameterServer(store) for _ in range(workers)]


def over_group(make_optimizer: MakeOptimizer, workers: int) -> list[Synchronizer]:
    groups = lockstep_groups(workers)
    config = CONFIGS[make_optimizer]
    return [AllReduce(partial(_itself, group), config, Shelf()) for group in groups]


def _itself(group: LockstepGroup) -> Group:
    return group


CONFIGS: dict[MakeOptimizer, Sgd | AdamW] = {sgd: Sgd(0.1, 0.9), adamw: AdamW(1e-2, weight_decay=0.1)}


STRATEGIES = pytest.mark.parametrize("strategy", [over_store, over_group])
Strategy = Callable[[MakeOptimizer, int], list[Synchronizer]]


def train_all(synchronizers: Sequence[Synchronizer], run: Run) -> list[Rank]:
    """Train all ranks of `run`. Made one after the other: making a model draws from torch's global generator."""
    ranks = [
        Rank(Small(), replace(run, rank=rank, world_size=len(synchronizers)), each, Heard(), FakeClock())
        for rank, each in enumerate(synchronizers)
    ]
    with ThreadPoolExecutor(len(ranks)) as pool:
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


@STRATEGIES
@OPTIMIZERS
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ranks_together_equal_a_single_process(
    make_optimizer: MakeOptimizer, workers: int, strategy: Strategy
) -> None:
    ranks = train_all(strategy(make_optimizer, workers), RUN)
    expected = single_process(make_optimizer, RUN)
    for rank in ranks:
        np.testing.assert_allclose(rank.model.values, expected, rtol=0, atol=1e-5)


@STRATEGIES
@OPTIMIZERS
def test_more_ranks_than_examples_in_a_batch_change_nothing(
    make_optimizer: MakeOptimizer, strategy: Strategy
) -> None:
    """50 examples in batches of 16 leave 2 for the last batch: a third rank has none."""
    run = replace(RUN, batch_size=2, steps=10)
    lead, *_ = train_all(strategy(make_optimizer, 3), run)
    np.testing.assert_allclose(lead.model.values, single_process(make_optimizer, run), rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_gradients_accumulated_over_micro_batches_change_nothing(accumulate: int) -> None:
    """More micro-batches than examples are as many as there are examples."""
    whole = train(Small(), RUN, LockstepStore(1, sgd))
    cut = train(Small(), replace(RUN, accumulate=accumulate), LockstepStore(1, sgd))
    np.testing.assert_allclose(cut.model.values, whole.model.values, rtol=0, atol=1e-6)
    assert cut.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-6)


def test_bf16_computes_in_bfloat16_and_keeps_the_values_in_fp32() -> None:
    seen = []

    class Watched(Small):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            seen.append(outputs.dtype)
            return super().loss(outputs, targets)

    full = train(Small(), replace(RUN, steps=200), LockstepStore(1, adamw))
    rank = train(Watched(), replace(RUN, steps=200, bf16=True), LockstepStore(1, adamw))
    assert set(seen) == {torch.bfloat16}
    assert rank.model.values.dtype == torch.float32
    assert rank.evaluate_test()["accuracy"] >= full.evaluate_test()["accuracy"] - 0.05


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

    rank = Rank(Small(), replace(RUN, steps=3), ParameterServer(LockstepStore(1, sgd)), Ticking(), clock)
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


class FirstEarly(ParameterServer):
    """Takes the gradient of the first step alone while it is computed."""

    def begin_step(self, step: int, gradient: torch.Tensor, samples: int) -> Early | None:
        return Half() if step == 0 else None


class Half:
    """Has sent half of a gradient."""

    share_sent = 0.5

    def ready(self, part: range) -> None:
        pass

    def cancel(self) -> None:
        pass


def test_what_was_sent_early_is_told_of_the_steps_in_which_it_was() -> None:
    heard = Heard()
    Rank(Small(), replace(RUN, steps=3), FirstEarly(LockstepStore(1, sgd)), heard, FakeClock()).train()
    assert [metrics.get("sent_early") for metrics in heard.metrics] == [0.5, None, None]
