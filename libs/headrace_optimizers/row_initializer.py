"""The first values of a row: a function of the table's seed and the row's key, and of nothing else.

So they are the same whichever shard has the row, whoever touches it first, after an eviction and after a restart. A row that nobody has
pushed to needs no memory: it can be computed whenever somebody pulls it.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.parameters.keys import Keys, mix
from headrace.parameters.layout import Floats
from headrace_optimizers.bounds import check

STEP = np.uint64(0x9E3779B97F4A7C15)  # between the states of SplitMix64
UNIT = 2.0**-53  # what 53 bits are multiplied with to be a number in [0, 1)
_ROWS = 256  # computed at a time: what they need on the way stays in a core's cache

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constant:
    """Every value is `value`."""

    value: float = 0.0

    def __post_init__(self) -> None:
        check("initializer.constant.value", self.value, "finite", holds=True)


@dataclass(frozen=True)
class Uniform:
    """Values are spread evenly over `low` to `high`."""

    low: float
    high: float
    seed: int = 0

    def __post_init__(self) -> None:
        check("initializer.uniform.low", self.low, "finite", holds=True)
        check("initializer.uniform.high", self.high, f"above low, {self.low}", self.high > self.low)


@dataclass(frozen=True)
class Normal:
    """Values have a normal distribution."""

    mean: float
    deviation: float
    seed: int = 0

    def __post_init__(self) -> None:
        check("initializer.normal.mean", self.mean, "finite", holds=True)
        check("initializer.normal.deviation", self.deviation, "above 0", self.deviation > 0)


Initializer = Constant | Uniform | Normal


def first_rows(initializer: Initializer, table: str, keys: Keys, dim: int) -> Floats:
    """Return the first values of rows, shape (n, dim).

    Args:
        table: The table's name: two tables with one seed differ.
    """
    if isinstance(initializer, Constant):
        return np.full((keys.size, dim), initializer.value, np.float32)
    rows = np.empty((keys.size, dim), np.float32)
    salt = salt_of(table, initializer.seed)
    for start in range(0, keys.size, _ROWS):
        streams = mix(keys[start : start + _ROWS] ^ salt)[:, None]
        rows[start : start + _ROWS] = _drawn(initializer, streams, dim)
    return rows


def salt_of(table: str, seed: int) -> np.uint64:
    """Return what keeps the values of one table apart from those of another."""
    return np.uint64(int.from_bytes(hashlib.sha256(f"{seed}/{table}".encode()).digest()[:8], "little"))


def _drawn(initializer: Uniform | Normal, streams: Keys, dim: int) -> Doubles:
    """Draw `dim` values from the stream of each row, shape (rows, 1); a stream is SplitMix64 begun with its number."""
    if isinstance(initializer, Uniform):
        return initializer.low + (initializer.high - initializer.low) * _unit(streams, dim)
    # Box & Muller 1958: two uniform numbers give two independent normal ones.
    pairs = _unit(streams, 2 * (-(-dim // 2))).reshape(streams.size, -1, 2)
    radius = np.sqrt(-2 * np.log1p(-pairs[..., 0]))
    angle = 2 * math.pi * pairs[..., 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(streams.size, -1)
    return initializer.mean + initializer.deviation * normal[:, :dim]


def _unit(streams: Keys, count: int) -> Doubles:
    """Return the first `count` numbers of each stream, in [0, 1)."""
    drawn = mix(streams + np.arange(count, dtype=np.uint64) * STEP)
    return (drawn >> np.uint64(11)).astype(np.float64) * UNIT
