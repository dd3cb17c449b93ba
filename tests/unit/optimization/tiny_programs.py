"""Programs small enough to train within a second: a convolutional net, a perceptron and a transformer block; and broken ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from headrace.program import Examples, Goal, Program, Split
from headrace.testing.data import examples_of
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowSgd
from headrace_optimizers.row_initializer import Normal

Array = np.ndarray[Any, Any]
SEEDS: Mapping[Split, int] = {"train": 1, "validation": 2, "test": 3}
CLASSES = 4


class Classifier:
    """What the three share: cross entropy, accuracy over the last axis."""

    goal = Goal("accuracy", "max")

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(-1) == targets).mean())}


class Bars(Classifier):
    """Which two of eight rows are bright? Noisy images, sorted by class as badly kept data is."""

    def model(self) -> nn.Module:
        return Convolutional()

    def data(self, split: Split) -> Examples:
        random = np.random.default_rng(SEEDS[split])
        targets = np.sort(random.integers(0, CLASSES, 200))
        image = random.normal(0, 0.6, (200, 1, 8, 8)).astype(np.float32)
        for example, target in zip(image, targets, strict=True):
            example[0, 2 * target : 2 * target + 2] += 1
        return Examples({"image": image}, targets)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(512, CLASSES),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.layers(image)
        return values


class Sums(Classifier):
    """In which quarter of its range is the sum of two named inputs?"""

    def model(self) -> nn.Module:
        return Perceptron()

    def data(self, split: Split) -> Examples:
        random = np.random.default_rng(SEEDS[split])
        left, right = random.uniform(-1, 1, (2, 200, 3)).astype(np.float32)
        sums = left.sum(1) + right.sum(1)
        return Examples({"left": left, "right": right}, np.digitize(sums, [-1, 0, 1]).astype(np.int64))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, CLASSES))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.layers(torch.cat([left, right], 1))
        return values


class Successors(Classifier):
    """Which token follows each one in the alphabet?"""

    def model(self) -> nn.Module:
        return TransformerBlock()

    def data(self, split: Split) -> Examples:
        tokens = np.random.default_rng(SEEDS[split]).integers(0, CLASSES, (200, 12))
        return Examples({"tokens": tokens}, (tokens + 1) % CLASSES)


class TransformerBlock(nn.Module):
    """One block of causal attention whose output layer is tied to the embedding, as in GPT."""

    def __init__(self, channels: int = 16, context: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, channels)
        self.position = nn.Parameter(torch.randn(context, channels) * 0.1)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.mix = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        self.output = nn.Linear(channels, CLASSES, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x_btc = self.embedding(tokens) + self.position
        q_btc, k_btc, v_btc = self.qkv(self.norm(x_btc)).chunk(3, -1)
        # One head; the exporter knows attention with an axis of heads only.
        q_bhtc, k_bhtc, v_bhtc = q_btc.unsqueeze(1), k_btc.unsqueeze(1), v_btc.unsqueeze(1)
        mixed_bhtc = nn.functional.scaled_dot_product_attention(q_bhtc, k_bhtc, v_bhtc, is_causal=True)
        x_btc = x_btc + mixed_bhtc.squeeze(1)
        values: torch.Tensor = self.output(x_btc + self.mix(x_btc))
        return values


class Bags(Classifier):
    """Of which class are most of four keys, whatever these are?"""

    def model(self) -> nn.Module:
        table = EmbeddingTable("words", 5, optimizer=RowSgd(0.1), initializer=Normal(0, 0.5, seed=1))
        return nn.Sequential(table, nn.Flatten(), nn.Linear(20, CLASSES))

    def data(self, split: Split) -> Examples:
        keys = np.random.default_rng(SEEDS[split]).integers(-(1 << 62), 1 << 62, (200, 4))
        return Examples({"input": keys}, keys[:, 0] % CLASSES)


class Raising(Bars):
    """Raises in the middle of a pipeline."""

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        raise ZeroDivisionError("no measure of mine")


class Hanging(Bars):
    """Never ends, in the middle of a pipeline."""

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        while True:
            pass


def train(program: Program, steps: int, learning_rate: float = 0.01) -> nn.Module:
    """Train on the whole train split; seeded."""
    torch.manual_seed(0)
    model, examples = program.model(), examples_of(program, "train")
    inputs = {name: torch.from_numpy(array) for name, array in examples.inputs.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = program.loss(model(**inputs), torch.from_numpy(examples.targets))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        optimizer.step()
    return model.eval()


def save(model: nn.Module, path: Path) -> None:
    """Write the state dict; of tied tensors one name, since the format has no ties."""
    seen: set[int] = set()
    values = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            values[name] = tensor.contiguous()
    save_file(values, path)
