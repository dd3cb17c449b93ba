"""What the optimizers of `row_config` do to rows of a table, in place: one pass over the rows, compiled.

D is the number of values of a row, W that of its state (`state_width`).
"""

import math

import numpy as np

from headrace.parameters.keys import Indices
from headrace.parameters.layout import Floats
from headrace_optimizers.compiled import compiled, inlined, prefetch
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad

_AHEAD = 8  # rows that are on their way from memory while one is computed
_LINE = np.uint64(16)  # values of a cache line


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
    values: Floats,
    state: Floats,
    slots: Indices,
    gradient: Floats,
    *,
    update: int,
    factor: float = 1.0,
) -> None:
    """Do one step with rows, in place.

    Args:
        values: Shape (slots, D), contiguous, as all of these.
        state: Shape (slots, W).
        slots: Shape (n,), int64, all different: which rows.
        gradient: Shape (n, D).
        update: How many came before in this table.
        factor: Of the learning rate, in this step.
    """
    rate = np.float32(config.learning_rate * factor)
    match config:
        case RowSgd():
            _sgd(values, slots, gradient, rate)
        case RowWiseAdagrad():
            _row_wise_adagrad(values, state, slots, gradient, rate, np.float32(config.epsilon))
        case RowAdagrad():
            _adagrad(values, state, slots, gradient, rate, np.float32(config.epsilon))
        case RowAdam():
            first, second = 1 - config.beta1 ** (update + 1), 1 - config.beta2 ** (update + 1)
            corrected = np.float32(config.learning_rate * factor * math.sqrt(second) / first)
            shares = np.float32(1 - config.beta1), np.float32(1 - config.beta2)
            _adam(values, state, slots, gradient, corrected, np.float32(config.epsilon), *shares)


@inlined
def _fetch(flat: Floats, slots: Indices, i: int, width: np.uint64) -> None:
    """Ask for the row, of `width` values, that is in turn some rows after row i."""
    if i + _AHEAD < slots.size:
        row = np.uint64(slots[i + _AHEAD]) * width
        for j in range(np.uint64(0), width, _LINE):
            prefetch(flat, row + j)


@compiled
def _sgd(values: Floats, slots: Indices, gradient: Floats, rate: np.float32) -> None:
    dim = np.uint64(values.shape[1])
    x, g = values.reshape(-1), gradient.reshape(-1)
    for i in range(slots.size):
        _fetch(x, slots, i, dim)
        row, here = np.uint64(slots[i]) * dim, np.uint64(i) * dim
        for j in range(dim):
            x[row + j] -= rate * g[here + j]


@compiled
def _row_wise_adagrad(
    values: Floats, state: Floats, slots: Indices, gradient: Floats, rate: np.float32, epsilon: np.float32
) -> None:
    dim, count = np.uint64(values.shape[1]), np.float32(values.shape[1])
    x, s, g = values.reshape(-1), state.reshape(-1), gradient.reshape(-1)
    for i in range(slots.size):
        _fetch(x, slots, i, dim)
        _fetch(s, slots, i, np.uint64(1))
        slot, here = np.uint64(slots[i]), np.uint64(i) * dim
        squares = np.float32(0)
        for j in range(dim):
            squares += g[here + j] * g[here + j]
        s[slot] += squares / count
        scale = rate / (np.sqrt(s[slot]) + epsilon)
        row = slot * dim
        for j in range(dim):
            x[row + j] -= scale * g[here + j]


@compiled
def _adagrad(
    values: Floats, state: Floats, slots: Indices, gradient: Floats, rate: np.float32, epsilon: np.float32
) -> None:
    dim = np.uint64(values.shape[1])
    x, s, g = values.reshape(-1), state.reshape(-1), gradient.reshape(-1)
    for i in range(slots.size):
        _fetch(x, slots, i, dim)
        _fetch(s, slots, i, dim)
        row, here = np.uint64(slots[i]) * dim, np.uint64(i) * dim
        for j in range(dim):
            total = s[row + j] + g[here + j] * g[here + j]
            s[row + j] = total
            x[row + j] -= rate * g[here + j] / (np.sqrt(total) + epsilon)


@compiled
def _adam(
    values: Floats,
    state: Floats,
    slots: Indices,
    gradient: Floats,
    rate: np.float32,
    epsilon: np.float32,
    first_share: np.float32,
    second_share: np.float32,
) -> None:
    """The state of a row is its first moments, then its second ones; a moment m becomes m + share (new - m)."""
    dim, two = np.uint64(values.shape[1]), np.uint64(2)
    x, s, g = values.reshape(-1), state.reshape(-1), gradient.reshape(-1)
    for i in range(slots.size):
        _fetch(x, slots, i, dim)
        _fetch(s, slots, i, two * dim)
        row, here = np.uint64(slots[i]) * dim, np.uint64(i) * dim
        firsts, seconds = two * row, two * row + dim
        for j in range(dim):
            first = s[firsts + j] + first_share * (g[here + j] - s[firsts + j])
            second = s[seconds + j] + second_share * (g[here + j] * g[here + j] - s[seconds + j])
            s[firsts + j], s[seconds + j] = first, second
            x[row + j] -= rate * first / (np.sqrt(second) + epsilon)
