"""What changes values: the kinds of optimizers and their settings."""

from dataclasses import dataclass, field

from headrace_optimizers.bounds import check
from headrace_optimizers.rule import UpdateRule


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: g = gradient + weight_decay x; v = momentum v + g; x = x - learning_rate v.

    With `nesterov`: x = x - learning_rate (g + momentum v).
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check("optimizer.sgd.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        check("optimizer.sgd.momentum", self.momentum, "0 to below 1", 0 <= self.momentum < 1)
        check("optimizer.sgd.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)
        fits = not self.nesterov or self.momentum > 0
        check("optimizer.sgd.nesterov", self.nesterov, "false without momentum", fits)


@dataclass(frozen=True)
class _Moments:
    """What Adam, AdamW and Lamb can be told."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        prefix = f"optimizer.{type(self).__name__.lower()}"
        check(f"{prefix}.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        check(f"{prefix}.beta1", self.beta1, "above 0 and below 1", 0 < self.beta1 < 1)
        check(f"{prefix}.beta2", self.beta2, "above 0 and below 1", 0 < self.beta2 < 1)
        check(f"{prefix}.epsilon", self.epsilon, "above 0", self.epsilon > 0)
        check(f"{prefix}.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


@dataclass(frozen=True)
class Adam(_Moments):
    """Adam with bias correction (Kingma & Ba 2015, arXiv:1412.6980); weight decay is an L2 penalty on the gradient."""


@dataclass(frozen=True)
class AdamW(_Moments):
    """AdamW with bias correction (Loshchilov & Hutter 2019, arXiv:1711.05101)."""


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011): s = s + g^2; x = x - learning_rate g / (sqrt(s) + epsilon)."""

    learning_rate: float
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        prefix = "optimizer.adagrad"
        check(f"{prefix}.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        start = self.initial_accumulator
        check(f"{prefix}.initial_accumulator", start, "0 or more", start >= 0)
        check(f"{prefix}.epsilon", self.epsilon, "above 0", self.epsilon > 0)
        check(f"{prefix}.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)


@dataclass(frozen=True)
class Lamb(_Moments):
    """LAMB with bias correction (You et al. 2020, arXiv:1904.00962); weight decay is part of the direction that is scaled."""

    epsilon: float = 1e-6


@dataclass(frozen=True)
class Registered:
    """A user's own update.

    Args:
        update: `module:attribute`.
        config: Keyword arguments, as JSON with sorted keys.
        rule: What they make; two optimizers with the same name and config are the same.
    """

    learning_rate: float
    update: str
    config: str
    rule: UpdateRule = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        prefix = "optimizer.registered"
        check(f"{prefix}.learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)


Optimizer = Sgd | Adam | AdamW | Adagrad | Lamb | Registered
