"""A vector whose chunks come in whatever order they are ready."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from headrace.errors import ShapeMismatch
from headrace.parameters.encoded import plain
from headrace.parameters.layout import Floats
from headrace.parameters.wire import Carrier


class Missing:
    """Which of `size` values have not come yet."""

    def __init__(self, size: int) -> None:
        self._gaps = [range(size)] if size else []  # ascending and apart

    @property
    def first(self) -> range | None:
        """The first gap."""
        return self._gaps[0] if self._gaps else None

    def take(self, start: int, stop: int) -> bool:
        """Take note that these, one or more, have come; return False, with nothing done, if one of them was there, or is none."""
        index = bisect_right(self._gaps, start, key=lambda gap: gap.start) - 1
        if index < 0 or stop > self._gaps[index].stop:
            return False
        gap = self._gaps[index]
        left = [part for part in (range(gap.start, start), range(stop, gap.stop)) if part]
        self._gaps[index : index + 1] = left
        return True


@dataclass(frozen=True)
class Gathered:
    """What has come: how many bytes of values, and whether all are known to be finite; large ones may not be, though they are."""

    size_bytes: int
    finite: bool


def gather(messages: Iterable[Carrier], values: Floats) -> Gathered:
    """Write the chunks of `messages` into `values`, shape (n,), which they must fill exactly, in any order.

    Raises:
        InvalidArgument: There is no such encoding.
        ShapeMismatch: Values are missing, come twice, are cut, or are too many.
    """
    missing, received, finite = Missing(values.size), 0, True
    for message in messages:
        if message.chunk.values:
            received += len(message.chunk.values)
            chunk = _write(plain(message.chunk), message.chunk.offset, values, missing)
            finite = finite and _is_finite(chunk)  # here: the processor has it at hand
    if gap := missing.first:
        raise ShapeMismatch(
            f"the stream has ended without the {len(gap)} values from offset {gap.start}; send all {values.size} of the shard's",
            metadata={"offset": gap.start},
        )
    return Gathered(received, finite)


def _write(data: bytes | memoryview, offset: int, values: Floats, missing: Missing) -> Floats:
    stop = offset + len(data) // 4
    if len(data) % 4 or not missing.take(offset, stop):
        gap = missing.first
        raise ShapeMismatch(
            f"a chunk of {len(data)} bytes at offset {offset} does not fit: of {values.size} values of float32, each comes once; "
            + (f"the first that is missing is at offset {gap.start}" if gap else "none is missing"),
            metadata={"offset": gap.start if gap else values.size},
        )
    values[offset:stop] = np.frombuffer(data, "<f4")
    return values[offset:stop]


def _is_finite(values: Floats) -> bool:
    """Tell whether the sum is finite: only if all values are."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum())
