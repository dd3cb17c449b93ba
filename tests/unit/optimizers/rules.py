"""Updates that are right, and ones that break each point of the contract."""

import random
from collections.abc import Mapping
from typing import Any

import torch


class Sgd:
    """Plain, with a count of what it has seen."""

    def __init__(self, scale: float = 1.0, fail_at: int = 0) -> None:
        self.state: Mapping[str, Any] = {"seen": 1.0}
        self.scale, self.fail_at = scale, fail_at

    def apply(
        self,
        values: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        step: int,
        learning_rate: float,
    ) -> None:
        state["seen"].add_(1)
        values.sub_(gradient, alpha=learning_rate * self.scale)
        gradient.zero_()  # it is the rule's to use
        if step == self.fail_at:
            raise RuntimeError(f"no step {step}")


class Overflowing(Sgd):
    def apply(self, values: torch.Tensor, *others: Any) -> None:
        values.fill_(float("inf"))


class OverflowingLate(Sgd):
    def apply(self, values: torch.Tensor, gradient: torch.Tensor, state: Any, step: int, rate: float) -> None:
        super().apply(values, gradient, state, step, rate)
        if step == 4:
            values.fill_(float("nan"))


class Raising(Sgd):
    def apply(self, *others: Any) -> None:
        raise KeyError("momentum")


class Random(Sgd):
    def apply(self, values: torch.Tensor, *others: Any) -> None:
        values.add_(random.random())


class Neighbourly(Sgd):
    """Scales by the norm of whatever is here: another thing on every shard."""

    def apply(self, values: torch.Tensor, gradient: torch.Tensor, state: Any, step: int, rate: float) -> None:
        values.sub_(gradient / gradient.norm(), alpha=rate)


class Stateless(Sgd):
    def __init__(self) -> None:
        super().__init__()
        self.state = ["momentum"]  # type: ignore[assignment]  # what it must not be


class Applied:
    state: Mapping[str, float] = {}


def broken_constructor() -> object:
    raise OSError("no such file")


INSTANCE = Sgd(2.0)
