"""What changes values: the kinds of optimizers and their settings."""

import math
from dataclasses import dataclass

from headrace.errors import InvalidArgument


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: v = momentum v + gradient + weight_decay x; x = x - learning_rate v."""

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check("optimizer.sgd.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        _check("optimizer.sgd.momentum", self.momentum, "0 to below 1", 0 <= self.momentum < 1)
        _check("optimizer.sgd.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


@dataclass(frozen=True)
class AdamW:
    """AdamW with bias correction (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check("optimizer.adamw.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        _check("optimizer.adamw.beta1", self.beta1, "above 0 and below 1", 0 < self.beta1 < 1)
        _check("optimizer.adamw.beta2", self.beta2, "above 0 and below 1", 0 < self.beta2 < 1)
        _check("optimizer.adamw.epsilon", self.epsilon, "above 0", self.epsilon > 0)
        _check("optimizer.adamw.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


Optimizer = Sgd | AdamW


def _check(field: str, value: float, bounds: str, holds: bool) -> None:
    if not holds or not math.isfinite(value):
        raise InvalidArgument(f"{field} is {value}; it must be {bounds}", field=field)
