"""What the optimizers of `row_config` do to rows of a table, in place.

D is the number of values of a row, W that of its state (`state_width`).
"""

import math

import torch

from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad


def state_width(config: RowOptimizer, dim: int) -> int:
    """Return how many values the optimizer keeps for a row of `dim` values."""
    match config:
        case RowSgd():
            return 0
        case RowWiseAdagrad():
            return 1
        case RowAdagrad():
            return dim
        case RowAdam():
            return 2 * dim


def first_state(config: RowOptimizer) -> float:
    """Return what every value of a new row's state is."""
    return config.initial_accumulator if isinstance(config, RowWiseAdagrad | RowAdagrad) else 0.0


def update_rows(
    config: RowOptimizer,
    values: torch.Tensor,
    state: torch.Tensor,
    slots: torch.Tensor,
    gradient: torch.Tensor,
    *,
    update: int,
    factor: float = 1.0,
) -> None:
    """Do one step with rows, in place.

    Args:
        values: Shape (slots, D).
        state: Shape (slots, W).
        slots: Shape (n,), int64, all different: which rows.
        gradient: Shape (n, D).
        update: How many came before in this table.
        factor: Of the learning rate, in this step.
    """
    # Scaled first: index_add_ with `alpha` takes three times as long as without.
    values.index_add_(
        0, slots, _change(config, state, slots, gradient, update, -config.learning_rate * factor)
    )


def _change(
    config: RowOptimizer,
    state: torch.Tensor,
    slots: torch.Tensor,
    gradient: torch.Tensor,
    update: int,
    rate: float,
) -> torch.Tensor:
    """Bring the state up to date and return what is to be added to the rows, shape (n, D)."""
    match config:
        case RowSgd():
            return gradient * rate
        case RowWiseAdagrad():
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            return _adagrad_change(
                config, state, slots, gradient, norms.square_().div_(gradient.shape[1]), rate
            )
        case RowAdagrad():
            return _adagrad_change(config, state, slots, gradient, gradient.square(), rate)
        case RowAdam():
            return _adam_change(config, state, slots, gradient, update, rate)


def _adagrad_change(
    config: RowAdagrad | RowWiseAdagrad,
    state: torch.Tensor,
    slots: torch.Tensor,
    gradient: torch.Tensor,
    squares: torch.Tensor,
    rate: float,
) -> torch.Tensor:
    sums = state.index_select(0, slots).add_(squares)
    state.index_copy_(0, slots, sums)
    return sums.sqrt_().add_(config.epsilon).reciprocal_().mul_(rate) * gradient


def _adam_change(
    config: RowAdam,
    state: torch.Tensor,
    slots: torch.Tensor,
    gradient: torch.Tensor,
    update: int,
    rate: float,
) -> torch.Tensor:
    moments = state.index_select(0, slots)
    first, second = moments.chunk(2, dim=1)
    first.lerp_(gradient, 1 - config.beta1)
    second.lerp_(gradient.square(), 1 - config.beta2)
    state.index_copy_(0, slots, moments)
    corrected = math.sqrt(1 - config.beta2 ** (update + 1)) / (1 - config.beta1 ** (update + 1))
    return first / second.sqrt().add_(config.epsilon) * (rate * corrected)
