"""Gradients that stay in their worker's memory until their step is complete."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from headrace.errors import Cancelled, DataLoss
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import Registered, Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.exchange import GradientLost
from headrace_parameters.core.need import Need
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.live import LiveStore

LAYOUT = FlatLayout((TensorSpec("a", (3,)),))
CONFIG = StoreConfig(
    name=StoreName("default", "run"),
    epoch=1,
    shard_index=0,
    shard_count=1,
    worker_count=2,
    consistency=Consistency.BSP,
    optimizer=Sgd(1.0),
)


class Lent:
    """A loan that holds until it ends."""

    def __init__(self) -> None:
        self._holds = True

    def end(self) -> None:
        self._holds = False

    def holds(self) -> bool:
        return self._holds


class EndsLoan:
    """An update during which a worker writes to its gradient."""

    state: Mapping[str, float] = {}  # as a user writes it

    def __init__(self, loan: Lent) -> None:
        self._loan = loan

    def apply(
        self,
        values: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        step: int,
        learning_rate: float,
    ) -> None:
        values.sub_(gradient)
        self._loan.end()


def gradient(worker: int, value: float, loan: Lent | None = None) -> Push:
    return Push(worker, 0, 1.0, np.full(3, value, np.float32), loan=loan)


@pytest.fixture
def shard() -> Shard:
    made = Shard(CONFIG)
    made.initialize(LAYOUT, np.zeros(3, np.float32))
    return made


def values(shard: Shard | LiveStore) -> Floats:
    assert shard.published is not None
    return shard.published.values.copy()


def test_a_gradient_is_read_where_it_lies_when_its_step_is_complete(shard: Shard) -> None:
    lent = gradient(0, 1, Lent())
    shard.push(lent)
    lent.gradient.fill(5)
    shard.push(gradient(1, 3))

    assert values(shard).tolist() == [-4.0] * 3


def test_a_gradient_that_was_taken_back_is_not_there_and_its_worker_pushes_again(shard: Shard) -> None:
    loan = Lent()
    shard.push(gradient(0, 100, loan))
    loan.end()

    assert shard.missing_workers(Need()) == [0, 1]
    assert shard.push(gradient(1, 3))
    assert values(shard).tolist() == [0.0] * 3, "the step is not complete"
    assert shard.push(gradient(0, 1, Lent()))
    assert values(shard).tolist() == [-2.0] * 3


def test_a_gradient_that_was_kept_outlasts_its_loan(shard: Shard) -> None:
    loan = Lent()
    lent = gradient(0, 1, loan)
    shard.push(lent)
    shard.keep_gradients(logged=False)
    loan.end()
    lent.gradient.fill(100)

    assert shard.is_duplicate(0, 0)
    shard.push(gradient(1, 3))
    assert values(shard).tolist() == [-2.0] * 3


def test_a_gradient_that_was_taken_back_before_it_came_is_refused(shard: Shard) -> None:
    loan = Lent()
    loan.end()
    with pytest.raises(Cancelled, match="worker 0 took the gradient back"):
        shard.push(gradient(0, 1, loan))

    assert shard.missing_workers(Need()) == [0, 1]


def test_a_store_whose_gradient_was_written_to_while_it_was_applied_ends() -> None:
    """Nobody sees values that hold half of one gradient and half of another."""
    loan = Lent()
    update = Registered(1.0, update="tests:ends_loan", config="{}", rule=EndsLoan(loan))
    store = LiveStore(replace(CONFIG, optimizer=update), datetime.now(UTC))
    store.initialize(LAYOUT, np.zeros(3, np.float32))
    store.push(gradient(0, 1))

    with pytest.raises(GradientLost, match=r"workers \[1\] wrote to gradients"):
        store.push(gradient(1, 1, loan))

    assert values(store).tolist() == [0.0] * 3
    with pytest.raises(DataLoss, match="go on from a checkpoint"):
        store.check_serves()
