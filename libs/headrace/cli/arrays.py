"""The inputs of `headrace predict`: `name=JSON`, `name=@file.npy`, `name=@file.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from headrace.errors import InvalidArgument

if TYPE_CHECKING:
    from headrace.inference.client import TensorMetadata

Array = np.ndarray[Any, Any]


def read_inputs(pairs: Sequence[str], signature: Callable[[], Sequence[TensorMetadata]]) -> dict[str, Array]:
    """Read all inputs.

    Args:
        signature: What the model takes; asked for only when JSON must become an array of the right type.
    Raises:
        InvalidArgument: One cannot be read; the message says how it is written.
    """
    values = dict(_pair(pair) for pair in pairs)
    if all(isinstance(value, np.ndarray) for value in values.values()):
        return values
    datatypes = {tensor.name: tensor.datatype for tensor in signature()}
    return {name: _array(name, value, datatypes) for name, value in values.items()}


def _pair(pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise _unreadable(pair, "it has no name")
    return name, _file(pair, Path(value[1:])) if value.startswith("@") else _json(pair, value)


def _file(pair: str, path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return npy.read_array(file)  # refuses arrays of objects, which would be unpickled
        return _json(pair, path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(pair, str(error)) from error


def _json(pair: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _unreadable(pair, f"it is not JSON ({error})") from error


def _array(name: str, value: Any, datatypes: Mapping[str, str]) -> Array:
    """Return what JSON said as an array of the type the model takes; an unknown name is left to the server to refuse."""
    if isinstance(value, np.ndarray):
        return value
    from headrace.inference.tensors import dtype_of

    dtype = dtype_of(datatypes.get(name, "FP32"))
    try:
        if dtype.kind == "O":
            return np.array(value, np.str_)
        if dtype.kind in "iu" and np.array(value).dtype.kind == "f":
            raise ValueError("it has numbers that are not whole")  # numpy would cut them off
        return np.array(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(
            f"input {name!r} cannot become an array of {dtype}: {error}", field="inputs"
        ) from error


def _unreadable(pair: str, why: str) -> InvalidArgument:
    shown = pair if len(pair) <= 60 else f"{pair[:57]}..."
    return InvalidArgument(
        f"--input {shown} cannot be read: {why}; write x=[[1,2],[3,4]], x=@file.npy or x=@file.json",
        field="inputs",
    )
