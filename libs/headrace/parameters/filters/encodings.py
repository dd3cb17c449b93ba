"""Every value in fewer bits.

Each encoding is a pure function of the values it is given, usually one chunk, which fits into a core's own cache: the passes below
are over that. numpy alone: the library loads no framework.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from headrace.errors import NonFiniteValues, ShapeMismatch
from headrace.parameters.layout import Floats

Bytes = npt.NDArray[np.uint8]

BLOCK = 256  # values that share a scale in int8: one more float32 for each makes 1.6 % more bytes
LARGEST_FP16 = 65504.0
_FP16_ENDS = 65520.0  # from here on the nearest is infinity
# Blocks whose largest value is below this are sent as zeros: their scale would not be a normal number.
SMALLEST_INT8 = 127 * float(np.finfo(np.float32).tiny)

_LEVELS = np.float32(127)
_STEP = np.nextafter(1 / _LEVELS, np.float32(0))  # rounded down: 127 steps never overflow


class Encoding(IntEnum):
    """How the bytes of a chunk stand for its values; the numbers are those on the wire."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3
    INT8 = 4
    SPARSE = 5


@dataclass(frozen=True)
class Codec:
    """One encoding.

    Args:
        encode: Values, shape (n,), to bytes.
        decode: Writes them to an array of shape (n,).
        size: Bytes of n values.
    """

    encode: Callable[[Floats], Bytes]
    decode: Callable[[Bytes, Floats], None]
    size: Callable[[int], int]


def _encode_float32(values: Floats) -> Bytes:
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _decode_float32(data: Bytes, out: Floats) -> None:
    out[...] = data.view("<f4")


def _encode_bfloat16(values: Floats) -> Bytes:
    """Round to the nearest of 8 significant bits, halves to even: the error is at most 2**-8 of the value."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    if values.size and math.isnan(values.min()):  # rounding up may make a 0 of a NaN
        rounded[np.isnan(values)] = 0x7FC0
    return rounded.astype("<u2").view(np.uint8)


def _decode_bfloat16(data: Bytes, out: Floats) -> None:
    np.left_shift(data.view("<u2"), np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)


def _encode_float16(values: Floats) -> Bytes:
    """Round to the nearest of 11 significant bits: the error is at most 2**-11 of the value, or 2**-25.

    Raises:
        NonFiniteValues: A value is above 65504 in size.
    """
    check_fits_float16(values)
    return values.astype("<f2").view(np.uint8)


def check_fits_float16(values: Floats) -> None:
    """Raise NonFiniteValues unless every value is finite as fp16 too."""
    most = max(float(values.max()), -float(values.min())) if values.size else 0.0
    if most < _FP16_ENDS:  # a NaN is below nothing
        return
    place = int(np.argmin(np.abs(values) < _FP16_ENDS))
    raise NonFiniteValues(
        f"{values[place]} does not fit into fp16, which ends at {LARGEST_FP16:g}; choose bf16, or a smaller learning rate"
    )


def _decode_float16(data: Bytes, out: Floats) -> None:
    out[...] = data.view("<f2")


def _size_int8(count: int) -> int:
    return count + 4 * -(-count // BLOCK)


def _encode_int8(values: Floats) -> Bytes:
    """Round to 255 levels between the largest value of a block and its negative: the error is at most 1/254 of the largest.

    The scales of all blocks, little-endian float32, come first, then the values. A NaN or an infinity becomes that of its block.
    Source: Dettmers et al. 2022, arXiv:2110.02861, section 2.1, with evenly spaced levels.
    """
    blocks, whole = -(-values.size // BLOCK), values.size // BLOCK * BLOCK
    data = np.empty(_size_int8(values.size), np.uint8)
    scales, levels = data[: 4 * blocks].view("<f4"), data[4 * blocks :].view(np.int8)
    _quantize(values[:whole].reshape(-1, BLOCK), scales, levels[:whole].reshape(-1, BLOCK))
    if whole < values.size:
        _quantize(values[whole:][None], scales[whole // BLOCK :], levels[whole:][None])
    return data


def _quantize(values_bn: Floats, scales_b: Floats, levels_bn: npt.NDArray[np.int8]) -> None:
    """Quantize blocks (b) of values (n)."""
    scaled_bn = np.abs(values_bn)
    largest_b = scaled_bn.max(axis=1)
    tiny_b = largest_b < SMALLEST_INT8
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse_b = np.where(tiny_b, np.float32(0), _LEVELS / largest_b)
        scales_b[: len(largest_b)] = np.where(tiny_b, np.float32(0), largest_b * _STEP)
        np.multiply(values_bn, inverse_b[:, None], out=scaled_bn)
        np.rint(scaled_bn, out=scaled_bn)
        np.copyto(levels_bn, scaled_bn, casting="unsafe")


def _decode_int8(data: Bytes, out: Floats) -> None:
    blocks, whole = -(-out.size // BLOCK), out.size // BLOCK * BLOCK
    scales, levels = data[: 4 * blocks].view("<f4"), data[4 * blocks :].view(np.int8)
    with np.errstate(invalid="ignore"):
        full = levels[:whole].reshape(-1, BLOCK), scales[: whole // BLOCK, None]
        np.multiply(*full, out=out[:whole].reshape(-1, BLOCK))
        np.multiply(levels[whole:], scales[whole // BLOCK :], out=out[whole:])


CODECS: Mapping[Encoding, Codec] = {
    Encoding.FLOAT32: Codec(_encode_float32, _decode_float32, lambda count: 4 * count),
    Encoding.BFLOAT16: Codec(_encode_bfloat16, _decode_bfloat16, lambda count: 2 * count),
    Encoding.FLOAT16: Codec(_encode_float16, _decode_float16, lambda count: 2 * count),
    Encoding.INT8: Codec(_encode_int8, _decode_int8, _size_int8),
}


def decode(encoding: Encoding, data: bytes | memoryview, out: Floats) -> None:
    """Write the values that `data` stands for to `out`, shape (n,).

    Raises:
        ShapeMismatch: These are not the bytes of n values.
    """
    codec = CODECS[encoding]
    if len(data) != codec.size(out.size):
        raise ShapeMismatch(
            f"{out.size} values in {encoding.name} have {codec.size(out.size)} bytes; {len(data)} were sent"
        )
    codec.decode(np.frombuffer(data, np.uint8), out)
