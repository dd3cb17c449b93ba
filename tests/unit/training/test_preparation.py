"""Activations that are computed again, and compiled models, change nothing but memory and time."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace_training.core import preparation
from headrace_training.core.blocks import blocks_of, checkpoint_activations
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from tests.unit.training.lockstep_store import LockstepStore
from tests.unit.training.small_program import Small
from tests.unit.training.test_training_ranks import adamw, train

RUN = Run(
    steps=12, batch_size=25, seed=3
)  # two steps show all rows: no batch is too small to be cut for BatchNorm
CHANNELS = 8


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(CHANNELS)
        self.linear = torch.nn.Linear(CHANNELS, CHANNELS)
        self.dropout = torch.nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.dropout(torch.relu(self.linear(self.norm(x))))
        return out


class Deep(Small):
    """Blocks with all that could go wrong when they compute twice: noise, and buffers that move."""

    def model(self) -> torch.nn.Module:
        blocks = (Residual() for _ in range(3))
        return torch.nn.Sequential(torch.nn.Linear(4, CHANNELS), *blocks, torch.nn.Linear(CHANNELS, 2))


class Flat(Small):
    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(4, 2)


def trained(program: Small, run: Run) -> Rank:
    return train(program, run, LockstepStore(1, adamw))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_that_computes_activations_again_equals_one_that_keeps_them(accumulate: int) -> None:
    run = replace(RUN, accumulate=accumulate)

    plain, again = trained(Deep(), run), trained(Deep(), replace(run, checkpoint_activations=True))

    assert again.model.layout == plain.model.layout
    expected = plain.model.state()
    for name, value in again.model.state().items():  # the buffers of BatchNorm included
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def kept_bytes(block: torch.nn.Module, x: torch.Tensor) -> int:
    """Return what autograd keeps between forward and backward, the parameters left out."""
    parameters = {parameter.data_ptr() for parameter in block.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x).sum().backward()
    return sum(kept.values())


def test_a_checkpointed_block_keeps_less() -> None:
    x = torch.randn(64, CHANNELS, requires_grad=True)
    plain, again = Residual(), Residual()
    checkpoint_activations(again)

    assert kept_bytes(again, x) < kept_bytes(plain, x) / 2


def test_evaluation_computes_once() -> None:
    block, calls = Residual().eval(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    block.linear.register_forward_hook(count)
    checkpoint_activations(block)
    with torch.no_grad():
        block(torch.randn(4, CHANNELS))

    assert calls == 1


class Lists(torch.nn.Module):
    """Two lists, one of them within a block of the other, a layer that stands twice, and one without parameters."""

    def __init__(self) -> None:
        super().__init__()
        inner = torch.nn.Linear(2, 2)
        inner.extra = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        shared = torch.nn.Linear(2, 2)
        self.stem = torch.nn.Sequential(torch.nn.Linear(2, 2))
        self.layers = torch.nn.ModuleList([inner, shared, torch.nn.ReLU(), shared])


def test_blocks_are_the_trained_members_of_the_outermost_lists() -> None:
    model = Lists()
    layers = list(model.layers)

    assert blocks_of(model) == [layers[0], layers[1]]
    assert blocks_of(torch.nn.ModuleDict({"a": model.stem})) == [model.stem[0]]


def test_a_model_without_blocks_cannot_be_cut() -> None:
    with pytest.raises(InvalidArgument, match="Linear has no blocks"):
        trained(Flat(), replace(RUN, checkpoint_activations=True))


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Trace models as for inductor, but run what was traced by torch itself: it takes no C++ compiler, and no time."""
    compiled: list[int] = []

    def run_as_traced(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(preparation, "BACKEND", run_as_traced)
    yield compiled
    torch.compiler.reset()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_compiled_run_equals_a_plain_one(quick_compiler: list[int], checkpointed: bool) -> None:
    plain = trained(Small(), RUN)
    run = replace(RUN, compile_model=True, checkpoint_activations=checkpointed)

    compiled = trained(Small(), run)

    assert len(quick_compiler) > 1  # more than the trial
    assert compiled.model.layout == plain.model.layout
    np.testing.assert_allclose(compiled.model.values, plain.model.values, rtol=0, atol=1e-6)


def test_a_node_that_cannot_compile_says_so_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise RuntimeError("no C++ compiler found\nin a long list of places")

    torch.compiler.reset()
    monkeypatch.setattr(preparation, "BACKEND", cannot)
    with pytest.raises(FailedPrecondition, match=r"no C\+\+ compiler found; install a C\+\+"):
        trained(Small(), replace(RUN, compile_model=True))
