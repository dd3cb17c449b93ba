"""Rows of a table that a model has with it, found by key: with nothing but what torch can export to ONNX.

`searchsorted` and 64-bit arithmetic without a sign are not among it, hence a binary search step by step, and SplitMix64 in two's complement.
"""

import math

import torch

from headrace_optimizers.row_initializer import STEP, UNIT, Constant, Initializer, Normal, salt_of

_BITS = 64


def look_up(keys: torch.Tensor, rows: torch.Tensor, asked: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Return the row of each key that is asked for, or the first values of a key that has none.

    Args:
        keys: Shape (n,), int64, ascending, all different.
        rows: Shape (n, dim).
        asked: int64, of any shape.
        first: Shape (*asked.shape, dim).
    """
    if not keys.numel():
        return first
    places = _places(keys, asked)
    known = (keys[places] == asked).unsqueeze(-1)
    return torch.where(known, rows[places], first)


def _places(keys: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Return how many keys are less than each that is asked for, but at most n - 1."""
    count = keys.numel()
    places = torch.zeros_like(asked)
    step = 1 << (count.bit_length() - 1)
    while step:
        further = places + step
        less = keys[(further - 1).clamp(max=count - 1)] < asked
        places = torch.where((further <= count) & less, further, places)
        step >>= 1
    return places.clamp(max=count - 1)


def first_values(initializer: Initializer, table: str, keys: torch.Tensor, dim: int) -> torch.Tensor:
    """Return what `row_initializer.first_rows` returns, to the bit in torch, for int64 keys of any shape: shape (*keys.shape, dim)."""
    if isinstance(initializer, Constant):
        return torch.full((*keys.shape, dim), initializer.value, device=keys.device)
    streams = _mixed(keys ^ _signed(int(salt_of(table, initializer.seed)))).unsqueeze(-1)
    if not isinstance(initializer, Normal):
        values = initializer.low + (initializer.high - initializer.low) * _unit(streams, dim)
        return values.to(torch.float32)
    pairs = _unit(streams, 2 * (-(-dim // 2)))
    radius = torch.sqrt(-2 * torch.log1p(-pairs[..., 0::2]))
    angle = 2 * math.pi * pairs[..., 1::2]
    normal = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(-2)
    return (initializer.mean + initializer.deviation * normal[..., :dim]).to(torch.float32)


def _unit(streams: torch.Tensor, count: int) -> torch.Tensor:
    states = torch.tensor(
        [_signed(place * int(STEP) % (1 << _BITS)) for place in range(count)], device=streams.device
    )
    return _shifted(_mixed(streams + states), 11).to(torch.float64) * UNIT


def _mixed(keys: torch.Tensor) -> torch.Tensor:
    """As `headrace.parameters.keys.mix`."""
    mixed = keys + _signed(int(STEP))
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(keys: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift to the right as numbers without a sign."""
    return (keys >> bits) & ((1 << (_BITS - bits)) - 1)


def _signed(number: int) -> int:
    return number - (1 << _BITS) if number >> (_BITS - 1) else number
