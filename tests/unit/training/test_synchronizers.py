"""What every strategy promises a rank, and what all-reduce adds to it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch

from headrace.errors import (
    Cancelled,
    InvalidArgument,
    NonFiniteValues,
    ProgramFailed,
    ShapeMismatch,
    Unavailable,
)
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import AdamW, Sgd
from headrace_optimizers.fused import FusedOptimizer
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.local_sgd import LocalSgd
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.state import TrainingState
from headrace_training.core.synchronizer import Synchronizer
from tests.unit.training.lockstep_group import LockstepGroup, Shelf, lockstep_groups
from tests.unit.training.lockstep_store import LockstepStore

LAYOUT = FlatLayout((TensorSpec("weight", (2, 2)), TensorSpec("bias", (2,))))
SGD = Sgd(0.1, 0.9)
Result = TypeVar("Result")


class OverStore:
    """A parameter server: what it has learned stays in the store."""

    def __init__(self, workers: int) -> None:
        self.store = LockstepStore(workers, lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9))
        self.workers = workers

    def ranks(self, step: int = 0, snapshot: str = "") -> list[Synchronizer]:
        return [ParameterServer(self.store) for _ in range(self.workers)]


class OverGroup:
    """All-reduce: what it has learned stays in the checkpoint."""

    def __init__(self, workers: int) -> None:
        self.shelf, self.workers = Shelf(), workers

    def ranks(self, step: int = 0, snapshot: str = "") -> list[Synchronizer]:
        return [all_reduce(group, self.shelf, snapshot, step) for group in lockstep_groups(self.workers)]


def all_reduce(
    group: LockstepGroup, shelf: Shelf, snapshot: str = "", step: int = 0, config: Sgd = SGD
) -> AllReduce:
    return AllReduce(lambda: group, config, shelf, snapshot, step)


World = Callable[[int], OverStore | OverGroup]
WORLDS = pytest.mark.parametrize("world", [OverStore, OverGroup])


def vector(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)


def tensor(seed: int) -> torch.Tensor:
    return torch.from_numpy(vector(seed))


def all_of(*work: Callable[[], Result]) -> list[Result]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(each) for each in work]]


def run(ranks: list[Synchronizer], steps: range, samples: tuple[int, ...]) -> list[Floats]:
    """Let every rank push gradients of its own; return the values of each."""

    def one(rank: int) -> Floats:
        values = vector(100 + rank)
        with ranks[rank] as synchronizer:
            synchronizer.begin(LAYOUT, torch.from_numpy(values))
            for step in steps:
                gradient = vector(10 * step + rank) if samples[rank] else np.zeros(LAYOUT.size, np.float32)
                synchronizer.step(step, torch.from_numpy(gradient), samples[rank])
            synchronizer.final()
        return values

    return all_of(*(lambda rank=rank: one(rank) for rank in range(len(ranks))))


def expected(first: Floats, steps: range, samples: tuple[int, ...]) -> Floats:
    """Apply the means, weighted by samples, with torch alone."""
    values = torch.nn.Parameter(torch.from_numpy(first.copy()))
    optimizer = torch.optim.SGD([values], lr=0.1, momentum=0.9)
    for step in steps:
        weighted = [vector(10 * step + rank) * count for rank, count in enumerate(samples) if count]
        values.grad = torch.from_numpy(np.asarray(sum(weighted) / np.float32(sum(samples))))
        optimizer.step()
    return values.detach().numpy()


@WORLDS
@pytest.mark.parametrize("samples", [(8,), (5, 3), (5, 3, 0)])
def test_steps_apply_the_mean_weighted_by_samples(world: World, samples: tuple[int, ...]) -> None:
    begun = run(world(len(samples)).ranks(), range(0), samples)
    assert all((values == begun[0]).all() for values in begun), "they begin alike"
    made = world(len(samples))
    if isinstance(made, OverStore):  # whoever comes first decides
        made.store.initialize(LAYOUT, vector(100))
    for values in run(made.ranks(), range(6), samples):
        np.testing.assert_allclose(values, expected(vector(100), range(6), samples), rtol=0, atol=1e-6)


@WORLDS
def test_what_a_checkpoint_saves_goes_on_as_if_nothing_had_happened(world: World) -> None:
    whole, broken = world(1), world(1)
    (unbroken,) = run(whole.ranks(), range(8), (4,))
    values = vector(100)
    with broken.ranks()[0] as first:
        first.begin(LAYOUT, torch.from_numpy(values))
        for step in range(5):
            first.step(step, tensor(10 * step), 4)
        (artifact,) = first.checkpoint()
        first.step(5, tensor(3), 4) if isinstance(broken, OverGroup) else None  # is not in the checkpoint
    (resumed,) = run(broken.ranks(5, artifact), range(5, 8), (4,))
    np.testing.assert_array_equal(resumed, unbroken)


def local_sgd(group: LockstepGroup, every: int, last: int = 100, config: Sgd = SGD) -> LocalSgd:
    return LocalSgd(every, last, lambda: group, config, Shelf())


def test_local_sgd_that_averages_each_step_is_plain_all_reduce() -> None:
    plain = Sgd(0.1)  # without momentum the mean of the steps is the step of the mean
    local = run([local_sgd(group, 1, config=plain) for group in lockstep_groups(2)], range(6), (5, 3))
    reduced = run(
        [all_reduce(group, Shelf(), config=plain) for group in lockstep_groups(2)], range(6), (5, 3)
    )
    np.testing.assert_allclose(local[0], reduced[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("every", "last"), [(3, 100), (4, 6)])
def test_local_sgd_takes_the_weighted_mean_of_what_each_rank_has_come_to(every: int, last: int) -> None:
    ranks: list[Synchronizer] = [local_sgd(group, every, last) for group in lockstep_groups(3)]
    found = run(ranks, range(6), (5, 3, 0))
    assert all((values == found[0]).all() for values in found), "six steps end with a mean"
    values, states = [vector(100)] * 3, [FusedOptimizer(SGD, LAYOUT.size) for _ in range(3)]
    for step in range(6):
        for rank in (0, 1):
            gradient = torch.from_numpy(vector(10 * step + rank))
            values[rank] = (
                states[rank].apply(torch.from_numpy(values[rank]), [(gradient, 1.0)]).clone().numpy()
            )
        if (step + 1) % every == 0 or step + 1 == last:
            values = [(values[0] * 5 + values[1] * 3) / np.float32(8)] * 3
    np.testing.assert_allclose(found[0], values[0], rtol=0, atol=1e-6)


def failing(group: LockstepGroup, error: Exception) -> None:
    """Begin, and fail in the first step."""
    with all_reduce(group, Shelf()) as synchronizer:
        synchronizer.begin(LAYOUT, tensor(0))
        raise error


def waiting(group: LockstepGroup, begun: Callable[[], object] = lambda: None) -> Exception:
    """Begin, and return what the first step raises."""
    with all_reduce(group, Shelf()) as synchronizer:
        synchronizer.begin(LAYOUT, tensor(0))
        begun()
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the test looks at it
            synchronizer.step(0, tensor(1), 1)
    return raised.value


@pytest.mark.parametrize(
    ("error", "heard", "says"),
    [
        (KeyError("row 17"), ProgramFailed, "rank 1: KeyError: 'row 17'"),
        (NonFiniteValues("the loss is nan in step 0"), NonFiniteValues, "rank 1: the loss is nan in step 0"),
    ],
)
def test_a_rank_that_fails_tells_all_others_why(error: Exception, heard: type[Exception], says: str) -> None:
    groups = lockstep_groups(3)

    def fail() -> Exception:
        with pytest.raises(type(error)) as raised:
            failing(groups[1], error)
        return raised.value

    found = all_of(lambda: waiting(groups[0]), fail, lambda: waiting(groups[2]))
    assert found[1] is error
    for other in (found[0], found[2]):
        assert type(other) is heard
        assert str(other) == says


def test_a_rank_that_vanishes_or_is_stopped_leaves_the_others_with_unavailable() -> None:
    groups = lockstep_groups(2)

    def stopped() -> Exception:
        with pytest.raises(Cancelled) as raised:
            failing(groups[1], Cancelled("stopped"))
        assert begun.wait(60), "else the other never came as far as its step"
        groups[1].vanish()
        return raised.value

    begun = threading.Event()
    assert isinstance(all_of(lambda: waiting(groups[0], begun.set), stopped)[0], Unavailable)


def test_ranks_with_different_models_do_not_begin() -> None:
    groups = lockstep_groups(2)
    other = FlatLayout((TensorSpec("weight", (6,)),))

    def begin(rank: int, layout: FlatLayout) -> None:
        with pytest.raises(ShapeMismatch, match="different tensors"):
            all_reduce(groups[rank], Shelf()).begin(layout, tensor(0))

    all_of(lambda: begin(0, LAYOUT), lambda: begin(1, other))


STATE = TrainingState(LAYOUT, 3, "sgd", torch.zeros(6), {"momentum_buffer": torch.zeros(6)})


@pytest.mark.parametrize(
    "state",
    [
        replace(STATE, step=4),
        replace(STATE, optimizer="adamw"),
        replace(STATE, layout=FlatLayout((TensorSpec("weight", (6,)),))),
        replace(STATE, optimizer_state={"exp_avg": torch.zeros(6)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(state: TrainingState) -> None:
    shelf = Shelf({"other": state})
    with pytest.raises(InvalidArgument):
        all_reduce(lockstep_groups(1)[0], shelf, "other", 3).begin(LAYOUT, tensor(0))


@pytest.mark.parametrize("optimizer", [SGD, Sgd(0.1), AdamW(1e-3)])
def test_a_state_survives_its_file(optimizer: Sgd | AdamW) -> None:
    shelf = Shelf()
    synchronizer = AllReduce(lambda: lockstep_groups(1)[0], optimizer, shelf)
    values = vector(0)
    synchronizer.begin(LAYOUT, torch.from_numpy(values))
    synchronizer.step(0, tensor(1), 2)
    (artifact,) = synchronizer.checkpoint()
    assert (shelf.states[artifact].step, shelf.states[artifact].layout) == (1, LAYOUT)
    np.testing.assert_array_equal(shelf.states[artifact].values.numpy(), values)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, {}),
        ({}, {"format": "headrace.training.state/1"}),
        ({}, {"format": "headrace.training.state/1", "state": "{"}),
        ({"values": torch.zeros(5)}, STATE.encode()[1]),
        ({"values": torch.zeros(6, dtype=torch.float64)}, STATE.encode()[1]),
    ],
)
def test_what_is_no_state_is_refused(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        TrainingState.decode(tensors, metadata)
