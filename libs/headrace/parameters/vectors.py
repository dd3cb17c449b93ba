"""Vectors that callers give, checked before anything is sent."""

import numpy as np

from headrace.errors import DtypeMismatch, ShapeMismatch
from headrace.parameters.layout import FlatLayout, Floats


def checked(layout: FlatLayout, flat: Floats) -> Floats:
    """Return a vector as it can travel; DtypeMismatch or ShapeMismatch if it is not one of the layout."""
    if flat.dtype != np.float32:
        raise DtypeMismatch(f"a vector of {flat.dtype} was given; parameters are float32")
    layout.check(flat)
    return np.ascontiguousarray(flat)


def output(size: int, out: Floats | None) -> Floats:
    """Return where values are to be written: `out`, or a new vector of shape (size,); ShapeMismatch if `out` does not fit."""
    if out is None:
        return np.empty(size, np.float32)
    if out.shape != (size,) or out.dtype != np.float32:
        raise ShapeMismatch(
            f"`out` has shape {list(out.shape)} of {out.dtype}; it must be [{size}] of float32"
        )
    return out
