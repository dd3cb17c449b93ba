"""Text: a small GPT-style model that learns to continue Python, character by character.

    headrace train headrace_examples.text:CharacterModel --config text_path=my.txt

Without a text of your own it reads the sources of Python's standard library, which every machine has. Architecture:
A. Radford et al. (2019), Language Models are Unsupervised Multitask Learners: pre-norm transformer blocks, learned positions.
"""

import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from headrace.program import Examples, Goal, Split

Array = npt.NDArray[np.generic]
Indices = npt.NDArray[np.int64]

# What a source file is made of; any other character becomes the last one. Fixed, so that a trained model stays readable.
VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "\N{REPLACEMENT CHARACTER}"
_TEXT_CHARACTERS = 1 << 20  # as much as a few hundred steps can use
_HELD_OUT_BLOCKS = 256  # each of validation and test: 256 x 64 characters measure the loss to about 1 %
_HELD_OUT_END = 0.1  # of the text
_SPLIT_SEED = 0

# Axes: b batch, t position, c channel, h head, d channel of a head, v vocabulary.


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a norm and beside a residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        # No bias: that of the keys would have no effect, and its gradient would be nothing but rounding.
        self.attention_in = nn.Linear(channels, 3 * channels, bias=False)
        self.attention_out = nn.Linear(channels, channels)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x_btc: torch.Tensor) -> torch.Tensor:
        """Return the same shape."""
        x_btc = x_btc + self._attend(self.attention_norm(x_btc))
        out_btc: torch.Tensor = x_btc + self.perceptron(x_btc)
        return out_btc

    def _attend(self, x_btc: torch.Tensor) -> torch.Tensor:
        q_bhtd, k_bhtd, v_bhtd = (
            part_btc.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part_btc in self.attention_in(x_btc).chunk(3, dim=-1)
        )
        mixed_bhtd = nn.functional.scaled_dot_product_attention(q_bhtd, k_bhtd, v_bhtd, is_causal=True)
        out_btc: torch.Tensor = self.attention_out(mixed_bhtd.transpose(1, 2).flatten(-2))
        return out_btc


class Transformer(nn.Module):
    """(B, T) character codes, int64, to (B, T, V) logits of the character that follows each."""

    def __init__(self, context: int, channels: int, layers: int, heads: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(VOCABULARY), channels)
        self.positions = nn.Parameter(torch.zeros(context, channels))
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, len(VOCABULARY))
        nn.init.normal_(self.characters.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return one logit per character of the vocabulary, at every position."""
        x_btc = self.characters(tokens) + self.positions
        logits_btv: torch.Tensor = self.head(self.norm(self.blocks(x_btc)))
        return logits_btv


class CharacterModel:
    """Predict the next character.

    Args:
        text_path: A UTF-8 text file; empty reads Python's standard library.
        context: Characters per example, >= 2.
        channels: Width; a multiple of `heads`.
        layers: Transformer blocks.
        heads: Attention heads.
        held_out: What training never sees: blocks "scattered" over the text, or its "end", the last tenth, all of which is the
            test split then.
    """

    goal = Goal("bits_per_character", "min")

    def __init__(
        self,
        text_path: str = "",
        context: int = 64,
        channels: int = 96,
        layers: int = 2,
        heads: int = 4,
        held_out: Literal["scattered", "end"] = "scattered",
    ) -> None:
        if held_out not in _SPLITS:
            raise ValueError(f"held_out is {held_out!r}; use one of {', '.join(_SPLITS)}")
        if channels % heads:
            raise ValueError(
                f"channels {channels} is no multiple of heads {heads}; choose one, such as {heads * 24}"
            )
        self._text_path = text_path
        self._context = context
        self._sizes = (channels, layers, heads)
        self._split = _SPLITS[held_out]

    def model(self) -> nn.Module:
        """Return the transformer."""
        return Transformer(self._context, *self._sizes)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy per character, in nats."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def data(self, split: Split) -> Examples:
        """Cut the text into blocks: codes of shape (N, context), int64, and as targets the codes one character later."""
        codes = encode(read_text(self._text_path))
        count = (len(codes) - 1) // self._context
        if count < 3 * _HELD_OUT_BLOCKS:
            raise ValueError(
                f"the text has {len(codes)} characters; at least {3 * _HELD_OUT_BLOCKS * self._context + 1} are needed"
            )
        blocks = np.arange(count)[:, None] * self._context + np.arange(self._context)
        chosen = blocks[self._split(split, count)]
        return Examples({"tokens": codes[chosen]}, codes[chosen + 1])

    def metrics(self, outputs: Array, targets: Array) -> Mapping[str, float]:
        """Return the bits needed per character, the same in nats, and the share of characters that were the likeliest one."""
        logits_ntv = np.asarray(outputs, np.float64)
        shifted_ntv = logits_ntv - logits_ntv.max(-1, keepdims=True)
        likelihoods = np.take_along_axis(shifted_ntv, np.asarray(targets, np.int64)[..., None], -1)[..., 0]
        nats = np.log(np.exp(shifted_ntv).sum(-1)) - likelihoods
        return {
            "bits_per_character": float(nats.mean() / np.log(2)),
            "nats_per_character": float(nats.mean()),
            "accuracy": float((logits_ntv.argmax(-1) == targets).mean()),
        }


def _scattered(split: Split, count: int) -> Indices:
    """Return the numbers of the blocks of a split, drawn from the whole text."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    bounds = {
        "test": (0, _HELD_OUT_BLOCKS),
        "validation": (_HELD_OUT_BLOCKS, 2 * _HELD_OUT_BLOCKS),
        "train": (2 * _HELD_OUT_BLOCKS, count),
    }
    begin, end = bounds[split]
    return np.sort(order[begin:end])


def _end(split: Split, count: int) -> Indices:
    """Return the numbers of the blocks of a split: the text's end is the test, what comes before it the validation."""
    test = count - int(count * _HELD_OUT_END)
    bounds = {
        "test": (test, count),
        "validation": (test - _HELD_OUT_BLOCKS, test),
        "train": (0, test - _HELD_OUT_BLOCKS),
    }
    return np.arange(*bounds[split])


_SPLITS: Mapping[str, Callable[[Split, int], Indices]] = {"scattered": _scattered, "end": _end}


def encode(text: str) -> npt.NDArray[np.int64]:
    """Return the place of each character in `VOCABULARY`, shape (len(text),)."""
    table = np.full(128, len(VOCABULARY) - 1, np.int64)
    for place, character in enumerate(VOCABULARY[:-1]):
        table[ord(character)] = place
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return table[np.minimum(points, 127)]


def read_text(path: str) -> str:
    """Read a file; without one, the first 2**20 characters of the standard library's modules in the order of their names."""
    if path:
        return Path(path).read_text(encoding="utf-8")
    text = ""
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += source.read_text(encoding="utf-8", errors="replace")
        if len(text) >= _TEXT_CHARACTERS:
            break
    return text[:_TEXT_CHARACTERS]
