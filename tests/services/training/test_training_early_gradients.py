"""A rank whose gradients travel while they are computed trains what it trains without, to the bit."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.program import Examples, Goal, Split
from headrace.testing import FakeClock
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from tests.services.parameters.parameter_server import NAME, create_request, parameter_server

WIDTH = 640  # a layer of 1.6 MB: each of two shards has several chunks


class Wide:
    """Four layers, one without a gradient, one whose gradient nobody needs."""

    goal = Goal("error", "min")

    def model(self) -> torch.nn.Module:
        return _Layers()

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(outputs, targets)

    def data(self, split: Split) -> Examples:
        generator = np.random.default_rng({"train": 1, "validation": 2, "test": 3}[split])
        rows = generator.normal(size=(24, WIDTH)).astype(np.float32)
        return Examples({"rows": rows}, rows[:, ::-1].copy())

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        return {"error": float(np.square(outputs - targets).mean())}


class _Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.layers[1].requires_grad_(requires_grad=False)
        self.unused = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            rows = torch.tanh(layer(rows))
        return rows


class Silent:
    """Wants to know nothing."""

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        pass

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        pass

    def took_lead(self, step: int) -> Best | None:
        return None

    def raise_if_stopped(self) -> None:
        pass


def _train(run: Run, *, early: bool) -> tuple[Floats, Mapping[str, float]]:
    """Train with two shards, gradients sent early by stream, or whole through memory; return values and metrics."""
    with ExitStack() as stack:
        servers = [stack.enter_context(parameter_server(max_bytes=1 << 26)) for _ in range(2)]
        for index, server in enumerate(servers):
            server.stores.create(create_request(shard_index=index, shard_count=2, momentum=0.9))
        addresses = [server.channel.address for server in servers]
        store = ShardedStore(addresses, NAME, epoch=1, worker=0, timeout_s=20, shared_memory=not early)
        with ParameterServer(store) as synchronizer:
            rank = Rank(Wide(), run, synchronizer, Silent(), FakeClock())
            rank.train()
    return rank.model.values.numpy(), rank.metrics


@pytest.mark.parametrize(
    "how", [{}, {"accumulate": 3}, {"bf16": True}], ids=["plainly", "in micro-batches", "in bfloat16"]
)
def test_training_with_early_gradients_ends_at_the_same_bits(how: dict[str, Any]) -> None:
    run = Run(steps=3, batch_size=12, seed=4, **how)

    early, metrics = _train(run, early=True)
    whole, without = _train(run, early=False)

    np.testing.assert_array_equal(early, whole)
    assert 0 <= metrics["sent_early"] <= 1
    assert "sent_early" not in without
