"""Some values at their places, all others 0.

The bytes of m values out of n: for each run of 65,536 places how many of its values are there (little-endian uint32), the values
(float32), and the place of each in its run (uint16): 6 bytes per value.
"""

import numpy as np
import numpy.typing as npt

from headrace.errors import ShapeMismatch
from headrace.parameters.filters.encodings import Bytes
from headrace.parameters.layout import Floats

Places = npt.NDArray[np.int64]

RUN = 1 << 16
_PER_VALUE = 6


def encoded_size(count: int, chosen: int) -> int:
    """Return the bytes of `chosen` values out of `count`."""
    return 4 * _runs(count) + _PER_VALUE * chosen


def encode(places: Places, values: Floats, count: int) -> Bytes:
    """Write values, shape (m,), that stand at `places`, ascending, of `count`."""
    runs, chosen = _runs(count), places.size
    data = np.empty(encoded_size(count, chosen), np.uint8)
    ends = np.searchsorted(places, np.arange(1, runs + 1) * RUN)
    data[: 4 * runs].view("<u4")[...] = np.diff(ends, prepend=0)
    data[4 * runs : 4 * (runs + chosen)].view("<f4")[...] = values
    data[4 * (runs + chosen) :].view("<u2")[...] = places & (RUN - 1)
    return data


def decode(data: bytes | memoryview, out: Floats) -> None:
    """Write all values, shape (n,), to `out`.

    Raises:
        ShapeMismatch: These are not the bytes of values out of n, each place once and in order.
    """
    runs, given = _runs(out.size), np.frombuffer(data, np.uint8)
    if given.size < 4 * runs:
        raise ShapeMismatch(f"{given.size} bytes are too few for {runs} runs of sparse values")
    counts = given[: 4 * runs].view("<u4").astype(np.int64)
    chosen = int(counts.sum())
    if given.size != encoded_size(out.size, chosen):
        raise ShapeMismatch(
            f"{chosen} sparse values of {out.size} have {encoded_size(out.size, chosen)} bytes; {given.size} were sent"
        )
    places = np.repeat(np.arange(runs) * RUN, counts)
    places += given[4 * (runs + chosen) :].view("<u2")
    if chosen and (places[-1] >= out.size or not (np.diff(places) > 0).all()):
        raise ShapeMismatch(f"sparse values must stand at ascending places below {out.size}, each once")
    out.fill(0)
    out[places] = given[4 * runs : 4 * (runs + chosen)].view("<f4")


def _runs(count: int) -> int:
    return -(-count // RUN)
