"""Which columns of the data become which inputs of the model, and of what type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.errors import DataUnreadable
from headrace.program import Examples

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """Names of columns by the argument of the model's `forward` that they become, and of the target.

    A name alone stands for that column as it is; a tuple of names for their numbers side by side, as float32.
    """

    inputs: Mapping[str, str | tuple[str, ...]]
    target: str | tuple[str, ...]

    @classmethod
    def of(cls, inputs: Mapping[str, str | Sequence[str]], target: str | Sequence[str]) -> "Columns":
        """Check and keep what a user wrote.

        Raises:
            ValueError: No input or no column is named.
        """
        kept = {name: _names(columns) for name, columns in inputs.items()}
        if not kept or not all(kept.values()) or not target:
            raise ValueError(
                f"inputs are {dict(inputs)!r} and the target {target!r}; name at least one column for each"
            )
        return cls(kept, _names(target))

    @property
    def names(self) -> list[str]:
        """All columns that are read, each once."""
        entries = [*self.inputs.values(), self.target]
        return list(dict.fromkeys(name for entry in entries for name in _each(entry)))

    def check(self, available: Sequence[str], file: str) -> None:
        """Check that a file has all columns.

        Raises:
            DataUnreadable: It lacks one.
        """
        for name in self.names:
            check_column(name, available, file)

    def examples(self, arrays: Mapping[str, Array]) -> Examples:
        """Put the arrays of columns, each with rows as its first axis, together."""
        return Examples(
            {name: _together(entry, arrays) for name, entry in self.inputs.items()},
            as_target(_together(self.target, arrays)),
        )


def check_column(name: str, available: Sequence[str], file: str) -> None:
    """Check that a file has a column.

    Raises:
        DataUnreadable: It has not.
    """
    if name not in available:
        close = get_close_matches(name, available, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(available[:20]) or 'none'}"
        raise DataUnreadable(f"{file} has no column {name!r}; {hint}")


def checked_keys(keys: Array, column: str) -> Array:
    """Return the keys that rows are partitioned by.

    Raises:
        DataUnreadable: They are neither integers nor text.
    """
    if keys.ndim != 1 or keys.dtype.kind not in "iubOU":
        raise DataUnreadable(
            f"column {column!r} is {keys.dtype} of shape {keys.shape[1:]} per row; partition by a column of integers or text"
        )
    return keys


def as_target(array: Array) -> Array:
    """Widen integers to int64, as torch's losses want class numbers."""
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


def as_float32(array: Array) -> Array:
    """Make floating-point numbers float32, as parameters are; leave anything else as it is."""
    return array.astype(np.float32) if array.dtype.kind == "f" and array.dtype != np.float32 else array


def _names(columns: str | Sequence[str]) -> str | tuple[str, ...]:
    return columns if isinstance(columns, str) else tuple(columns)


def _each(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry


def _together(entry: str | tuple[str, ...], arrays: Mapping[str, Array]) -> Array:
    if isinstance(entry, str):
        return as_float32(arrays[entry])
    for name in entry:
        if arrays[name].dtype.kind not in "fiub" or arrays[name].ndim != 1:
            raise DataUnreadable(
                f"column {name!r} is {arrays[name].dtype} of shape {arrays[name].shape[1:]} per row; only single numbers can stand "
                "side by side, so make it an input of its own"
            )
    return np.stack([arrays[name].astype(np.float32) for name in entry], axis=1)
