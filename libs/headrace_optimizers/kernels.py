"""Torch's fused kernels: one step of some values in their memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from headrace_optimizers.config import Adagrad, Adam, AdamW, Lamb, Optimizer, Registered, Sgd

Parts = Mapping[
    str, list[Any]
]  # of each vector of the state, what belongs to some values, as the kernels take it


def step(
    config: Optimizer,
    values: torch.Tensor,
    gradient: torch.Tensor,
    state: Mapping[str, torch.Tensor],
    place: slice,
    learning_rate: float,
) -> None:
    """Update values in their memory, and the state, by the fused kernel.

    Args:
        values, gradient: Shape (n,).
        state: Of the whole vector; `place` is what belongs to these n values. Its count of steps, those done before, is left as it is.
    """
    parts: Parts = {name: [value[place]] for name, value in state.items() if value.ndim}
    if isinstance(config, Sgd):
        _sgd(config, values, gradient, parts, learning_rate)
        return
    count = state["step"].clone()  # the kernel counts it on
    if isinstance(config, Adagrad):
        _adagrad(config, values, gradient, parts, count, learning_rate)
        return
    assert not isinstance(config, Registered), "it has a step of its own"
    _adam(config, values, gradient, parts, count, learning_rate)


def _sgd(
    config: Sgd, values: torch.Tensor, gradient: torch.Tensor, parts: Parts, learning_rate: float
) -> None:
    sgd(
        [values],
        [gradient],
        parts.get("momentum_buffer", [None]),
        fused=True,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        lr=learning_rate,
        dampening=0.0,
        nesterov=config.nesterov,
        maximize=False,
    )


def _adagrad(
    config: Adagrad,
    values: torch.Tensor,
    gradient: torch.Tensor,
    parts: Parts,
    count: torch.Tensor,
    learning_rate: float,
) -> None:
    adagrad(
        [values],
        [gradient],
        parts["sum"],
        [count],
        fused=True,
        lr=learning_rate,
        weight_decay=config.weight_decay,
        lr_decay=0.0,
        eps=config.epsilon,
        maximize=False,
    )


def _adam(
    config: Adam | AdamW | Lamb,
    values: torch.Tensor,
    gradient: torch.Tensor,
    parts: Parts,
    count: torch.Tensor,
    learning_rate: float,
) -> None:
    (adam if isinstance(config, Adam) else adamw)(
        [values],
        [gradient],
        parts["exp_avg"],
        parts["exp_avg_sq"],
        [],
        [count],
        fused=True,
        amsgrad=False,
        beta1=config.beta1,
        beta2=config.beta2,
        lr=learning_rate,
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        maximize=False,
    )
