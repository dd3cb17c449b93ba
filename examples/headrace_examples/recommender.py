"""Who likes what: users and items are text, and live as rows of a table under the hash of it, so that nobody has to number them.

The ratings are drawn, always the same ones, from tastes of four dimensions that the model does not see. What an item's popularity alone tells is
`popularity`, the baseline to beat.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from headrace.program import Examples, Goal, Split
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowWiseAdagrad
from headrace_optimizers.row_initializer import Normal

Array = npt.NDArray[Any]

_USERS, _ITEMS, _TASTES = 400, 200, 4
_RATINGS: Mapping[Split, int] = {"train": 24_000, "validation": 2_000, "test": 4_000}
_SEEDS: Mapping[Split, int] = {"train": 11, "validation": 12, "test": 13}


def key_of(text: str) -> int:
    """Return the key of a user or an item: 64 bits of its hash, as a number with a sign."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


class Tastes(torch.nn.Module):
    """The product of what a user and an item are like, and how popular the item is."""

    def __init__(self, dim: int, learning_rate: float) -> None:
        super().__init__()
        optimizer = RowWiseAdagrad(learning_rate)
        self.likings = EmbeddingTable("likings", dim, optimizer=optimizer, initializer=Normal(0, 0.3, seed=1))
        self.popularity = EmbeddingTable("popularity", 1, optimizer=optimizer)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.offset = torch.nn.Parameter(torch.zeros(1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Return the logits of "likes it", shape (batch,)."""
        match = (self.likings(user) * self.likings(item)).sum(dim=1)
        logits: torch.Tensor = self.scale * match + self.popularity(item).squeeze(1) + self.offset
        return logits


class Recommender:
    """Does this user like this item?"""

    goal = Goal("accuracy", "max")

    def __init__(self, dim: int = 8, learning_rate: float = 0.3) -> None:
        self._dim, self._learning_rate = int(dim), float(learning_rate)

    def model(self) -> torch.nn.Module:
        """Return a factorization (Koren, Bell & Volinsky 2009, IEEE Computer 42(8)) whose rows live in tables."""
        return Tastes(self._dim, self._learning_rate)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy."""
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    def data(self, split: Split) -> Examples:
        """Return ratings, 1 for "likes it"."""
        users, items, likes = _ratings(split)
        user_keys = np.array([key_of(f"user:{number}") for number in range(_USERS)])
        item_keys = np.array([key_of(f"item:{number}") for number in range(_ITEMS)])
        return Examples({"user": user_keys[users], "item": item_keys[items]}, likes)

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        """Return how many answers are right."""
        return {"accuracy": float(((outputs > 0) == (targets > 0.5)).mean())}


def popularity() -> float:
    """Return the accuracy, on the test split, of telling everybody what most of the train split say of an item."""
    _, items, likes = _ratings("train")
    liked = np.bincount(items, likes, _ITEMS) / np.maximum(1, np.bincount(items, minlength=_ITEMS))
    _, items, likes = _ratings("test")
    return float(((liked[items] > 0.5) == (likes > 0.5)).mean())


def _ratings(split: Split) -> tuple[Array, Array, Array]:
    world = np.random.default_rng(10)
    users, items = world.normal(size=(_USERS, _TASTES)), world.normal(size=(_ITEMS, _TASTES))
    popular = world.normal(0, 0.7, _ITEMS)
    generator = np.random.default_rng(_SEEDS[split])
    user = generator.integers(0, _USERS, _RATINGS[split])
    item = generator.integers(0, _ITEMS, _RATINGS[split])
    logits = 1.5 * (users[user] * items[item]).sum(axis=1) + popular[item]
    likes = generator.random(user.size) < 1 / (1 + np.exp(-logits))
    return user, item, likes.astype(np.float32)
