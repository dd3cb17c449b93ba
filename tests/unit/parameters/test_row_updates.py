"""The optimizers of rows against torch's own and against plain formulas."""

import numpy as np
import pytest
import torch

from headrace.errors import InvalidArgument
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_updates import first_state, state_width, update_rows

ROWS, DIM, STEPS = 7, 5, 20


class Trained:
    """Rows that are updated by us."""

    def __init__(self, config: RowOptimizer, first: torch.Tensor) -> None:
        self.config = config
        self.values = first.clone()
        self.state = np.full((ROWS, state_width(config, DIM)), first_state(config), np.float32)
        self.updates = 0

    def step(self, slots: torch.Tensor, gradient: torch.Tensor, factor: float = 1.0) -> None:
        update_rows(
            self.config,
            self.values.numpy(),
            self.state,
            slots.numpy(),
            gradient.numpy(),
            update=self.updates,
            factor=factor,
        )
        self.updates += 1


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randperm(ROWS, generator=generator)[: 1 + step % ROWS],
            torch.randn(1 + step % ROWS, DIM, generator=generator),
        )
        for step in range(STEPS)
    ]


FIRST = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RowSgd(0.1), lambda rows: torch.optim.SGD(rows, lr=0.1)),
        (
            RowAdagrad(0.1, 0.5, 1e-6),
            lambda rows: torch.optim.Adagrad(rows, lr=0.1, initial_accumulator_value=0.5, eps=1e-6),
        ),
        (
            RowAdam(0.1, 0.8, 0.95, 1e-6),
            lambda rows: torch.optim.SparseAdam(rows, lr=0.1, betas=(0.8, 0.95), eps=1e-6),
        ),
    ],
)
def test_rows_change_as_torch_changes_them_with_sparse_gradients(ours: RowOptimizer, theirs: object) -> None:
    trained = Trained(ours, FIRST)
    embedding = torch.nn.Parameter(FIRST.clone())
    optimizer: torch.optim.Optimizer = theirs([embedding])  # type: ignore[operator]  # a lambda

    for slots, gradient in batches():
        trained.step(slots, gradient)
        embedding.grad = torch.sparse_coo_tensor(slots[None], gradient, (ROWS, DIM), check_invariants=True)
        optimizer.step()

    assert torch.allclose(trained.values, embedding.detach(), rtol=1e-5, atol=1e-6)


def test_row_wise_adagrad_has_one_accumulator_per_row_the_sum_of_mean_squares() -> None:
    """The formula of arXiv:2104.05158, in float64."""
    trained = Trained(RowWiseAdagrad(0.1, 0.5, 1e-6), FIRST)
    values, sums = FIRST.double().numpy(), np.full(ROWS, 0.5)

    for slots, gradient in batches():
        trained.step(slots, gradient)
        for slot, row in zip(slots.tolist(), gradient.double().numpy(), strict=True):
            sums[slot] += (row**2).mean()
            values[slot] -= 0.1 * row / (np.sqrt(sums[slot]) + 1e-6)

    assert trained.state.shape == (ROWS, 1)
    assert np.allclose(trained.values.numpy(), values, rtol=1e-5, atol=1e-6)
    assert np.allclose(trained.state[:, 0], sums, rtol=1e-5)


@pytest.mark.parametrize("config", [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1), RowAdam(0.1)])
def test_a_factor_scales_the_learning_rate_and_other_rows_stay_as_they_are(config: RowOptimizer) -> None:
    half, whole = Trained(config, FIRST), Trained(config, FIRST)
    slots, gradient = torch.tensor([5, 2]), torch.ones(2, DIM)

    half.step(slots, gradient, factor=0.5)
    whole.step(slots, gradient)

    assert torch.allclose(2 * (half.values - FIRST), whole.values - FIRST, atol=1e-6)
    others = [row for row in range(ROWS) if row not in (5, 2)]
    assert torch.equal(whole.values[others], FIRST[others])


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: RowSgd(0), "sgd.learning_rate"),
        (lambda: RowWiseAdagrad(0.1, -1), "row_wise_adagrad.initial_accumulator"),
        (lambda: RowAdagrad(0.1, 0, 0), "adagrad.epsilon"),
        (lambda: RowAdam(0.1, 1.0), "adam.beta1"),
        (lambda: RowAdam(float("nan")), "adam.learning_rate"),
    ],
)
def test_settings_out_of_bounds_are_refused(make: object, field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        make()  # type: ignore[operator]  # a lambda
