"""Programs with mistakes: each ends with what is wrong."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from headrace.errors import InvalidArgument, NonFiniteValues, ProgramFailed
from headrace.program import Examples, Split
from headrace.testing import FakeClock
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from tests.unit.training.lockstep_store import LockstepStore
from tests.unit.training.small_program import Array, Small

RUN = Run(steps=1, batch_size=16, seed=3)


class Unheard:
    """An observer that does not care."""

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        pass

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        pass

    def took_lead(self, step: int) -> Best | None:
        raise AssertionError("rank 0 leads from the beginning")

    def raise_if_stopped(self) -> None:
        pass


def store() -> LockstepStore:
    return LockstepStore(1, lambda parameters: torch.optim.SGD(parameters, lr=0.1))


class LossOfNan(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() * float("nan")


class LossPerSample(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum(1)


class GradientOfInfinity(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs * 0).abs().sqrt().sum()


class WrongGoal(Small):
    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        return {"recall": 1.0}


class NoData(Small):
    def data(self, split: Split) -> Examples:
        return Examples({"input": np.zeros((0, 4), np.float32)}, np.zeros(0, np.int64))


class OddData(Small):
    def data(self, split: Split) -> Examples:
        return Examples({"input": np.zeros((3, 4), np.float32)}, np.zeros(2, np.int64))


class DoubleModel(Small):
    def model(self) -> torch.nn.Module:
        return super().model().double()


class LossAsNumber(Small):
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1.0  # type: ignore[return-value]  # a user's mistake


class NoModel(Small):
    def model(self) -> torch.nn.Module:
        return None  # type: ignore[return-value]  # a user's mistake


class MetricsMissing(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return None  # type: ignore[return-value]  # a user's mistake


class MetricAsText(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {"accuracy": "high"}  # type: ignore[dict-item]  # a user's mistake


class ManyMetrics(Small):
    def metrics(self, outputs: Array, targets: Array) -> dict[str, float]:
        return {str(number): 1.0 for number in range(101)}


class NoExamples(Small):
    def data(self, split: Split) -> Examples:
        return None  # type: ignore[return-value]  # a user's mistake


class FrozenModel(Small):
    def model(self) -> torch.nn.Module:
        return super().model().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("program", "error", "says"),
    [
        (LossOfNan(), NonFiniteValues, "loss is nan in step 0"),
        (GradientOfInfinity(), NonFiniteValues, r"gradient of '0\.weight' is not finite in step 0"),
        (LossPerSample(), ProgramFailed, r"shape \[16\].*a scalar"),
        (LossAsNumber(), ProgramFailed, r"loss\(\) returned a float; return the mean"),
        (NoModel(), ProgramFailed, r"model\(\) returned a NoneType; return a torch.nn.Module"),
        (
            NoExamples(),
            ProgramFailed,
            r"data\('train'\) returned a NoneType; return headrace.program.Examples",
        ),
        (MetricsMissing(), ProgramFailed, r"metrics\(\) returned a NoneType; return a dict of numbers"),
        (ManyMetrics(), ProgramFailed, r"metrics\(\) returned 101 numbers; return at most 100"),
        (MetricAsText(), ProgramFailed, r"metrics\(\) returned 'high' as 'accuracy'; return a number"),
        (WrongGoal(), ProgramFailed, "returns recall, but the goal is 'accuracy'"),
        (NoData(), ProgramFailed, r"data\('train'\) has 0 examples"),
        (OddData(), ProgramFailed, r"2 targets and {'input': 3} inputs"),
        (DoubleModel(), InvalidArgument, r"parameter '0\.weight' is float64; make it float32"),
        (FrozenModel(), InvalidArgument, "nothing to train"),
    ],
)
def test_a_program_with_a_mistake_ends_with_what_is_wrong(
    program: Small, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Rank(program, RUN, ParameterServer(store()), Unheard(), FakeClock()).train()
