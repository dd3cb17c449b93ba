"""What one rank of a fully sharded run holds, measured on a group that only pretends to have other ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as c10d
from torch.testing._internal.distributed.fake_pg import FakeStore

from headrace.errors import InvalidArgument
from headrace_optimizers.config import AdamW
from headrace_optimizers.schedule import CONSTANT
from headrace_training.core.fully_sharded import Updates
from headrace_training.sharded_model import ShardedModel

RANKS = 4


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.linear(self.norm(x))
        return out


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(Block() for _ in range(3)))


@contextmanager
def group(rank: int) -> Iterator[None]:
    """Be one of the ranks; what the others would send is whatever lies in memory."""
    c10d.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
    try:
        yield
    finally:
        c10d.destroy_process_group()


def held(rank: int) -> dict[str, int]:
    """Return how many values a rank holds after a step: of parameters, gradients and optimizer state."""
    with group(rank):
        sharded = ShardedModel(model(), bf16=False)
        sharded.shard()
        updates = Updates(sharded, AdamW(learning_rate=1e-3), CONSTANT, 0.0)
        sharded.module(torch.randn(2, 16)).sum().backward()
        updates.apply(0)
        states = [
            state for each in updates._optimizers.values() for state in each.views().values() if state.ndim
        ]
        return {
            "parameters": sum(part.numel() for part in sharded.parts.values()),
            "gradients": sum(part.numel() for part in sharded.gradient_parts.values()),
            "state": sum(state.numel() for state in states),
        }


def test_each_rank_holds_its_part_of_parameters_gradients_and_optimizer_state() -> None:
    whole = sum(parameter.numel() for parameter in model().parameters())

    ranks = [held(rank) for rank in range(RANKS)]

    assert [each["parameters"] for each in ranks] == [whole // RANKS] * RANKS
    assert [each["gradients"] for each in ranks] == [whole // RANKS] * RANKS
    assert [each["state"] for each in ranks] == [2 * whole // RANKS] * RANKS


def test_a_part_keeps_the_values_that_the_model_had() -> None:
    expected = model().state_dict()
    with group(rank=1):
        sharded = ShardedModel(model(), bf16=False)
        sharded.shard()

        for name, part in sharded.parts.items():
            torch.testing.assert_close(part, expected[name].chunk(RANKS)[1], rtol=0, atol=0)


def test_a_model_without_blocks_cannot_be_sharded() -> None:
    with pytest.raises(InvalidArgument, match="Linear has no blocks"):
        ShardedModel(torch.nn.Linear(2, 2), bf16=False)
