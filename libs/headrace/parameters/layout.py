"""A model's tensors as one flat vector; `headrace.parameters.shard_map` says which shard holds which part of it.

layout = FlatLayout.of(state)              # {"weight": (2, 3), "bias": (2,)} -> 8 values
flat = layout.flatten(state)               # shape (8,), float32
layout.views(flat)["weight"]               # shape (2, 3), no copy
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from headrace.errors import InvalidArgument, ShapeMismatch
from headrace.parameters.ranges import shared

Floats = npt.NDArray[np.float32]

# 4 TiB of float32: far more than any machine holds, far less than what overflows a product.
MAX_VALUES = 1 << 40
MAX_DIMENSIONS = 64  # as many as numpy has


@dataclass(frozen=True)
class TensorSpec:
    """One named float32 tensor; a scalar has an empty shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def _check_shape(tensor: TensorSpec) -> None:
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise InvalidArgument(
            f"tensor {tensor.name!r} has {len(tensor.shape)} dimensions; at most {MAX_DIMENSIONS} are taken",
            field="tensors",
        )
    if any(not 1 <= size <= MAX_VALUES for size in tensor.shape):
        raise InvalidArgument(
            f"tensor {tensor.name!r} has shape {list(tensor.shape)}; every dimension must be 1 to {MAX_VALUES}",
            field="tensors",
        )


@dataclass(frozen=True)
class FlatLayout:
    """Tensors, in the order in which they follow each other in the flat vector, each row-major.

    Raises:
        InvalidArgument: No tensors, an empty or repeated name, a dimension below 1, or more than `MAX_VALUES` values or
            `MAX_DIMENSIONS` dimensions.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if not all(names) or not names:
            raise InvalidArgument("a model needs one tensor or more, each with a name", field="tensors")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidArgument(f"tensor {twice!r} is named twice; names must differ", field="tensors")
        for tensor in self.tensors:
            _check_shape(tensor)
        if self.size > MAX_VALUES:
            raise InvalidArgument(
                f"the tensors have {self.size} values together; a model may have {MAX_VALUES}",
                field="tensors",
            )

    @classmethod
    def of(cls, tensors: Mapping[str, npt.NDArray[np.generic]]) -> "FlatLayout":
        """Lay out arrays in the order of the mapping."""
        return cls(tuple(TensorSpec(name, tuple(array.shape)) for name, array in tensors.items()))

    @cached_property
    def size(self) -> int:
        """Number of values N of the flat vector."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def _ranges(self) -> Mapping[str, range]:
        ranges, start = {}, 0
        for tensor in self.tensors:
            ranges[tensor.name] = range(start, start + tensor.size)
            start += tensor.size
        return ranges

    def parts(self, held: Sequence[range]) -> list[tuple[int, range]]:
        """Say which tensors have values in ranges of the vector, by index, and where these lie in a vector of those ranges alone."""
        return [
            (index, range(place.second, place.second + len(place.values)))
            for index, found in enumerate(self._ranges.values())
            for place in shared([found], held)
        ]

    def select(self, names: Sequence[str] = (), ranges: Sequence[range] = ()) -> list[range]:
        """Say which values of the vector are meant: those of the named tensors, or of the ranges, or all without either.

        Raises:
            InvalidArgument: There is no such tensor, ranges are not ascending and apart within the vector, or both were given.
        """
        if not ranges:
            return self.ranges(names)
        if names:
            raise InvalidArgument("tensors and ranges were both given; give one of them", field="ranges")
        end = 0
        for part in ranges:
            if part.step != 1 or not end <= part.start < part.stop <= self.size:
                raise InvalidArgument(
                    f"the range from {part.start} to {part.stop} cannot be; ranges must be ascending, apart, not empty, and within "
                    f"{self.size} values",
                    field="ranges",
                )
            end = part.stop
        return list(ranges)

    def ranges(self, names: Iterable[str] = ()) -> list[range]:
        """Say where the named tensors lie, in the order of the vector, neighbours as one range; all of it without names.

        Raises:
            InvalidArgument: There is no tensor of that name.
        """
        wanted = set(names)
        unknown = sorted(wanted - self._ranges.keys())
        if unknown:
            raise InvalidArgument(f"there is no tensor {unknown[0]!r} in this model", field="tensors")
        if not wanted:
            return [range(self.size)]
        merged: list[range] = []
        for name, found in self._ranges.items():
            if name in wanted:
                if merged and merged[-1].stop == found.start:
                    merged[-1] = range(merged[-1].start, found.stop)
                else:
                    merged.append(found)
        return merged

    def views(self, flat: Floats) -> dict[str, Floats]:
        """Cut `flat`, shape (N,), into its tensors by name; they share its memory.

        Raises:
            ShapeMismatch: `flat` has another shape.
        """
        self.check(flat)
        return {
            tensor.name: flat[found.start : found.stop].reshape(tensor.shape)
            for tensor, found in zip(self.tensors, self._ranges.values(), strict=True)
        }

    def flatten(self, tensors: Mapping[str, npt.NDArray[np.generic]], out: Floats | None = None) -> Floats:
        """Copy arrays of this layout into one vector of shape (N,): `out`, or a new one.

        Raises:
            ShapeMismatch: A tensor is missing or has another shape.
        """
        flat = np.empty(self.size, np.float32) if out is None else out
        for name, view in self.views(flat).items():
            given = tensors.get(name)
            if given is None or given.shape != view.shape:
                found = "is missing" if given is None else f"has shape {list(given.shape)}"
                raise ShapeMismatch(f"tensor {name!r} {found}; it must have shape {list(view.shape)}")
            view[...] = given
        return flat

    def check(self, flat: Floats) -> None:
        """Raise ShapeMismatch unless `flat` has shape (N,)."""
        if flat.shape != (self.size,):
            raise ShapeMismatch(
                f"a vector of shape {list(flat.shape)} was given; this model needs [{self.size}]"
            )
