"""Rank 0 ends a run that finds no better values: all ranks end, with every strategy, and the best values are kept."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.errors import MembersChanged
from headrace.parameters.answers import Place
from headrace.testing import FakeClock
from headrace_optimizers.config import Sgd
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.local_sgd import LocalSgd
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best, Selection
from headrace_training.core.synchronizer import Synchronizer
from tests.unit.training.lockstep_group import LockstepGroup, Shelf, lockstep_groups
from tests.unit.training.lockstep_store import LockstepStore
from tests.unit.training.small_program import Array, Small
from tests.unit.training.test_training_ranks import Heard, sgd

EVERY = 4
RUN = Run(steps=100, batch_size=16, seed=3, evaluate_every=EVERY, selection=Selection(patience=2))
SGD = Sgd(0.1, 0.9)


class Peaking(Small):
    """Is measured best at its third evaluation."""

    def __init__(self) -> None:
        self.evaluations = 0

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        self.evaluations += 1
        return {"accuracy": 1 - abs(self.evaluations - 3) / 100}


def over_store(workers: int) -> list[Synchronizer]:
    store = LockstepStore(workers, sgd)
    return [ParameterServer(store) for _ in range(workers)]


def over_group(workers: int) -> list[Synchronizer]:
    return [AllReduce(_itself(group), SGD, Shelf()) for group in lockstep_groups(workers)]


def over_means(workers: int) -> list[Synchronizer]:
    return [LocalSgd(EVERY, RUN.steps, _itself(group), SGD, Shelf()) for group in lockstep_groups(workers)]


def _itself(group: LockstepGroup) -> Callable[[], LockstepGroup]:
    return lambda: group


STRATEGIES = pytest.mark.parametrize("strategy", [over_store, over_group, over_means])
WORKERS = pytest.mark.parametrize("workers", [1, 2, 3])


def train(synchronizers: Sequence[Synchronizer], run: Run) -> tuple[list[Rank], Heard]:
    heard = Heard()
    ranks = [
        Rank(
            Peaking(),
            replace(run, rank=rank, world_size=len(synchronizers)),
            each,
            heard if rank == 0 else Heard(),
            FakeClock(),
        )
        for rank, each in enumerate(synchronizers)
    ]
    with ThreadPoolExecutor(len(ranks)) as pool:
        for done in [pool.submit(rank.train) for rank in ranks]:
            done.result(timeout=60)
    return ranks, heard


@STRATEGIES
@WORKERS
def test_all_ranks_end_when_the_best_is_past(
    strategy: Callable[[int], list[Synchronizer]], workers: int
) -> None:
    ranks, heard = train(strategy(workers), RUN)
    assert ranks[0].step == 5 * EVERY
    # With local SGD the others do the steps up to the next mean by themselves; it never comes.
    bound = 6 * EVERY - 1 if strategy is over_means else 5 * EVERY
    assert all(rank.step <= bound for rank in ranks)
    assert [best.step for best in heard.best] == [EVERY, 2 * EVERY, 3 * EVERY]
    assert heard.best[-1] == Best(3 * EVERY, "accuracy", 1.0)


@STRATEGIES
def test_the_best_values_are_those_of_their_step(strategy: Callable[[int], list[Synchronizer]]) -> None:
    _, heard = train(strategy(2), RUN)
    (until_best, _), _ = train(strategy(2), replace(RUN, steps=3 * EVERY, selection=None))
    until_best.model.take(heard.best_state)
    again, _ = train(strategy(2), replace(RUN, steps=3 * EVERY, selection=None))
    np.testing.assert_allclose(until_best.model.values, again[0].model.values, rtol=0, atol=1e-6)


@STRATEGIES
def test_a_run_that_ends_with_its_last_step_tells_nobody(
    strategy: Callable[[int], list[Synchronizer]],
) -> None:
    """The others do not wait any more: to tell them would be to wait for them."""
    ranks, _ = train(strategy(2), replace(RUN, steps=5 * EVERY))
    assert [rank.step for rank in ranks] == [5 * EVERY] * 2


def test_a_run_without_patience_keeps_the_best_and_goes_on() -> None:
    (rank,), heard = train(over_store(1), replace(RUN, selection=Selection()))
    assert rank.step == RUN.steps
    assert heard.best[-1].step == 3 * EVERY


def test_a_run_that_goes_on_keeps_what_was_best_before_it() -> None:
    store = LockstepStore(1, sgd, version=2 * EVERY)
    found = Best(2 * EVERY, "accuracy", 2.0)
    (rank,), heard = train([ParameterServer(store)], replace(RUN, start_step=2 * EVERY, best=found))
    assert rank.step == 4 * EVERY
    assert heard.best == []


@pytest.mark.parametrize("strategy", [over_group, over_means])
def test_a_run_that_goes_on_from_where_it_gave_up_does_no_step_more(
    strategy: Callable[[int], list[Synchronizer]],
) -> None:
    """It was killed after its last checkpoint, before all ranks had heard."""
    ranks, _ = train(strategy(2), replace(RUN, start_step=5 * EVERY, best=Best(3 * EVERY, "accuracy", 1.0)))
    assert ranks[0].step == 5 * EVERY


def test_values_that_are_taken_are_the_models_own() -> None:
    (rank,), _ = train(over_store(1), replace(RUN, steps=2, selection=None))
    state = {name: torch.ones_like(value) for name, value in rank.model.state().items()}
    rank.model.take(state)
    assert (rank.model.values == 1).all()


class TakingOver(ParameterServer):
    """The other rank, which led, is lost in a step: by default that of the second evaluation."""

    def __init__(self, store: LockstepStore, at: int = 2 * EVERY - 1) -> None:
        super().__init__(store)
        self._at, self._lost = at, False

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:
        if step == self._at and not self._lost:
            self._lost = True
            raise MembersChanged("rank 0 is gone")
        return super().step(step, gradient, samples)

    def rejoin(self) -> Place:
        return Place(0, 1, step=self._at)


def test_a_rank_that_takes_the_lead_goes_on_from_the_best_that_the_other_had_found() -> None:
    """Its own first evaluation, 0.98, is worse than that."""
    heard = Heard(found=Best(EVERY, "accuracy", 0.985))
    run = replace(RUN, rank=1, world_size=2)
    rank = Rank(Peaking(), run, TakingOver(LockstepStore(1, sgd)), heard, FakeClock())
    rank.train()
    assert heard.led_from == 2 * EVERY - 1
    assert heard.evaluations[0][0] == 2 * EVERY
    assert [best.step for best in heard.best] == [3 * EVERY, 4 * EVERY]
    assert rank.step == 6 * EVERY


def test_a_rank_that_takes_the_lead_measures_what_the_other_had_not_come_to() -> None:
    """The step of an evaluation was done everywhere when the one that led was lost."""
    heard = Heard()
    rank = Rank(
        Peaking(),
        replace(RUN, rank=1, world_size=2, steps=2 * EVERY + 1),
        TakingOver(LockstepStore(1, sgd), at=2 * EVERY),
        heard,
        FakeClock(),
    )
    rank.train()
    assert [step for step, _ in heard.evaluations] == [2 * EVERY, 2 * EVERY + 1]


class Joined(ParameterServer):
    """Somebody joins in the moment in which the run is ended."""

    refused = 0

    def finish_run(self) -> None:
        if not self.refused:
            self.refused += 1
            raise MembersChanged("another rank has joined")
        super().finish_run()

    def rejoin(self) -> Place:
        return Place(0, 2, step=5 * EVERY)


def test_a_run_ends_although_its_members_change_in_that_moment() -> None:
    synchronizer = Joined(LockstepStore(1, sgd))
    (rank,), _ = train([synchronizer], RUN)
    assert synchronizer.refused == 1
    assert rank.step == 5 * EVERY
