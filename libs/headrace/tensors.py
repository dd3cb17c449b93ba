"""Arrays on the wire: raw little-endian bytes in C order, copied only where that cannot be avoided.

for chunk in chunks(weights):                      # memoryviews of at most 1 MiB
    yield PushRequest(data=bytes(chunk))
assembly = Assembly("float32", (10, 64))
for request in requests:
    assembly.add(request.offset, request.data)
weights = assembly.array()
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from headrace.errors import DtypeMismatch, InvalidArgument, NonFiniteValues, ShapeMismatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Large enough that the cost of a message is lost in it, small enough that other calls get between two of them.
CHUNK_BYTES = 1 << 20
_WIDTHS = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}
DTYPES = frozenset({"bool"} | {f"{kind}{bits}" for kind, widths in _WIDTHS.items() for bits in widths})


def to_bytes(array: Array) -> memoryview:
    """Return the elements of `array`, little-endian in C order.

    The view shares the array's memory if that already lies so (it keeps the array alive); otherwise it is a copy.

    Raises:
        DtypeMismatch: The element type has no place on the wire.
    """
    import numpy as np

    check_dtype(array.dtype.name)
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def from_bytes(data: bytes | memoryview, dtype: str, shape: Sequence[int], *, field: str = "data") -> Array:
    """View `data` as an array, read-only and without a copy on a little-endian machine.

    Args:
        data: The elements, little-endian in C order; the array keeps it alive.
        dtype: One of `DTYPES`.
        shape: Non-negative sizes; () for a scalar.
        field: The request field, for the errors.
    Raises:
        DtypeMismatch: `dtype` is unknown.
        ShapeMismatch: `data` has another number of bytes than the shape asks for.
    """
    import numpy as np

    expected = byte_size(dtype, shape, field=field)
    if len(data) != expected:
        raise ShapeMismatch(
            f"{field} has {len(data)} bytes; {dtype} of shape {list(shape)} takes {expected}", field=field
        )
    array = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return array if sys.byteorder == "little" else array.astype(dtype)


def byte_size(dtype: str, shape: Sequence[int], *, field: str = "shape") -> int:
    """Return how many bytes an array takes.

    Raises:
        DtypeMismatch: `dtype` is unknown.
        ShapeMismatch: A size is negative.
    """
    import numpy as np

    check_dtype(dtype, field=field)
    if any(size < 0 for size in shape):
        raise ShapeMismatch(f"{field}: shape {list(shape)} has a negative size", field=field)
    return math.prod(shape) * np.dtype(dtype).itemsize


def check_dtype(dtype: str, *, field: str = "dtype") -> None:
    """Check an element type's name.

    Raises:
        DtypeMismatch: It is not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise DtypeMismatch(
            f"{field}: dtype {dtype!r} is not one of {', '.join(sorted(DTYPES))}", field=field
        )


def check_finite(array: Array, *, field: str = "data") -> None:
    """Check that every element is a number.

    Raises:
        NonFiniteValues: There is a NaN or an infinity; the message says how many and where the first is.
    """
    import numpy as np

    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    first = int(np.argmin(finite))
    raise NonFiniteValues(
        f"{field} holds {array.size - int(finite.sum())} NaN or infinite values, the first at element {first} of "
        f"{array.size}; a smaller learning rate or clipped gradients are the usual cure",
        metadata={"first": first},
        field=field,
    )


def chunks(array: Array, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, memoryview]]:
    """Cut the bytes of `array` into pieces that share its memory; an empty array gives none.

    Yields:
        Offset in bytes, and at most `chunk_bytes` bytes (whole elements if that is a multiple of 8).
    """
    data = to_bytes(array)
    for offset in range(0, len(data), chunk_bytes):
        yield offset, data[offset : offset + chunk_bytes]


class Assembly:
    """Puts the chunks of one array together again, in any order, into memory that is allocated once.

    Raises:
        DtypeMismatch, ShapeMismatch: As `byte_size`.
    """

    def __init__(self, dtype: str, shape: Sequence[int], *, field: str = "data") -> None:
        import numpy as np

        self._field = field
        self._size = byte_size(dtype, shape, field=field)
        self._array: np.ndarray[Any, Any] = np.empty(shape, np.dtype(dtype).newbyteorder("<"))
        self._bytes = self._array.reshape(-1).view(np.uint8)
        self._received: list[tuple[int, int]] = []  # disjoint [begin, end), ordered, neighbours joined

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Copy a chunk to its place.

        Raises:
            InvalidArgument: It reaches beyond the array, or overlaps one that came before.
        """
        import numpy as np

        end = offset + len(data)
        if offset < 0 or end > self._size:
            raise InvalidArgument(
                f"{self._field}: bytes {offset} to {end} lie outside of the array's {self._size}",
                field=self._field,
            )
        self._claim(offset, end)
        self._bytes[offset:end] = np.frombuffer(data, np.uint8)

    def _claim(self, begin: int, end: int) -> None:
        if begin == end:
            return
        if any(begin < taken_end and taken_begin < end for taken_begin, taken_end in self._received):
            raise InvalidArgument(f"{self._field}: bytes {begin} to {end} came twice", field=self._field)
        joined: list[tuple[int, int]] = []
        for span in sorted([*self._received, (begin, end)]):
            if joined and joined[-1][1] == span[0]:
                joined[-1] = (joined[-1][0], span[1])
            else:
                joined.append(span)
        self._received = joined

    @property
    def missing_bytes(self) -> int:
        """How many bytes have not come yet."""
        return self._size - sum(end - begin for begin, end in self._received)

    def array(self) -> Array:
        """Return the whole array; it is the assembly's own memory.

        Raises:
            ShapeMismatch: Something is missing.
        """
        if self.missing_bytes:
            raise ShapeMismatch(
                f"{self._field}: {self.missing_bytes} of {self._size} bytes are missing", field=self._field
            )
        return self._array
