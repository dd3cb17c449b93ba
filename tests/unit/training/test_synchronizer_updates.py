"""What a job says about its updates holds without a parameter server too: schedules, clipping, and the step that comes next."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.config import Lamb, Optimizer, Sgd
from headrace_optimizers.loading import loader
from headrace_optimizers.making import optimizer_for
from headrace_optimizers.schedule import Decay, Schedule
from headrace_optimizers.wire import optimizer_from_proto
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.local_sgd import LocalSgd
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.synchronizer import Synchronizer
from tests.unit.training.lockstep_group import Shelf, lockstep_groups
from tests.unit.training.lockstep_store import LockstepStore

LAYOUT = FlatLayout((TensorSpec("weight", (2, 2)), TensorSpec("bias", (2,))))
SGD = Sgd(0.1, 0.9)
COSINE = Schedule(Decay.COSINE, decay_steps=8)
STEPS, NORM = 8, 0.7


def vector(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)


def all_reduce(
    norm: float = 0.0,
    shelf: Shelf | None = None,
    snapshot: str = "",
    step: int = 0,
    optimizer: Optimizer = SGD,
) -> AllReduce:
    (group,) = lockstep_groups(1)
    return AllReduce(lambda: group, optimizer, shelf or Shelf(), snapshot, step, COSINE, norm)


def local_sgd() -> LocalSgd:
    (group,) = lockstep_groups(1)
    return LocalSgd(1, STEPS, lambda: group, SGD, Shelf(), schedule=COSINE)


def run(synchronizer: Synchronizer, steps: range = range(STEPS)) -> Floats:
    values = vector(100)
    with synchronizer:
        synchronizer.begin(LAYOUT, torch.from_numpy(values))
        for step in steps:
            assert synchronizer.step(step, torch.from_numpy(vector(step)), 4) == step + 1
    return values


def expected(norm: float = float("inf")) -> Floats:
    """Train with torch alone."""
    values = torch.nn.Parameter(torch.from_numpy(vector(100)))
    optimizer = torch.optim.SGD([values], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        values.grad = torch.from_numpy(vector(step))
        torch.nn.utils.clip_grad_norm_([values], norm)
        optimizer.step()
        schedule.step()
    return values.detach().numpy()


@pytest.mark.parametrize("make", [all_reduce, local_sgd])
def test_the_learning_rate_follows_the_schedule(make: Callable[[], AllReduce]) -> None:
    np.testing.assert_allclose(run(make()), expected(), rtol=0, atol=1e-6)


def test_all_reduce_clips_the_mean_by_its_norm() -> None:
    assert any(np.linalg.norm(vector(step)) > NORM for step in range(STEPS))
    np.testing.assert_allclose(run(all_reduce(NORM)), expected(NORM), rtol=0, atol=1e-6)


def test_all_reduce_scales_each_tensor_with_lamb_also_after_a_checkpoint() -> None:
    shelf, lamb = Shelf(), Lamb(0.1, weight_decay=0.01)
    alone, values = optimizer_for(lamb, LAYOUT, [range(LAYOUT.size)]), torch.from_numpy(vector(100))
    for step in range(STEPS):
        values = alone.apply(values, [(torch.from_numpy(vector(step)), 1.0)], COSINE.factor(step))
    with all_reduce(shelf=shelf, optimizer=lamb) as synchronizer:
        synchronizer.begin(LAYOUT, torch.from_numpy(vector(100)))
        for step in range(5):
            synchronizer.step(step, torch.from_numpy(vector(step)), 4)
        (artifact,) = synchronizer.checkpoint()

    resumed = run(all_reduce(0.0, shelf, artifact, 5, lamb), range(5, STEPS))

    np.testing.assert_allclose(resumed, values.numpy(), rtol=0, atol=1e-6)


def test_an_update_of_ones_own_runs_in_a_rank_too() -> None:
    message = stores_pb2.Optimizer()
    message.registered.learning_rate, message.registered.update = 0.1, "headrace_examples.updates:Lion"
    lion = optimizer_from_proto(message, loader(["headrace_examples"]))
    alone, values = optimizer_for(lion, LAYOUT, [range(LAYOUT.size)]), torch.from_numpy(vector(100))
    for step in range(STEPS):
        values = alone.apply(values, [(torch.from_numpy(vector(step)), 1.0)], COSINE.factor(step))

    np.testing.assert_allclose(run(all_reduce(optimizer=lion)), values.numpy(), rtol=0, atol=1e-6)


def test_a_resumed_run_goes_on_with_the_learning_rate_it_would_have_had() -> None:
    shelf, first = Shelf(), vector(100)
    with all_reduce(NORM, shelf) as synchronizer:
        synchronizer.begin(LAYOUT, torch.from_numpy(first))
        for step in range(5):
            synchronizer.step(step, torch.from_numpy(vector(step)), 4)
        (artifact,) = synchronizer.checkpoint()
    resumed = run(all_reduce(NORM, shelf, artifact, 5), range(5, STEPS))
    np.testing.assert_array_equal(resumed, run(all_reduce(NORM)))


def test_a_parameter_server_returns_the_step_that_the_run_has_come_to() -> None:
    store = LockstepStore(1, lambda values: torch.optim.SGD(values, lr=0.1))
    run(ParameterServer(store), range(3))
    assert store.version == 3


def test_a_parameter_server_lends_the_memory_of_its_store() -> None:
    class Lending(LockstepStore):
        def gradient_memory(self, size: int) -> Floats:
            return lent[:size]

    lent = np.zeros(LAYOUT.size, np.float32)
    store = Lending(1, lambda values: torch.optim.SGD(values, lr=0.1))
    assert np.shares_memory(ParameterServer(store).gradient_memory(LAYOUT.size), lent)
    assert not all_reduce().gradient_memory(LAYOUT.size).any()
