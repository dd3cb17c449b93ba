"""Outputs as classes: instead of all scores of a row, the best of them with their places and names."""

from collections.abc import Sequence

import numpy as np

from headrace.errors import InvalidArgument
from headrace.inference.tensors import Array, datatype_of

KINDS = "iufV"  # of numpy's dtypes: what has an order; V is bfloat16


def classify(output: Array, count: int, labels: Sequence[str] = (), *, batched: bool) -> Array:
    """Return the `count` largest elements of each row, the largest first, as texts "value:index" or "value:index:label".

    Args:
        output: Numbers; if `batched`, of shape (rows, ...), else all of it is one row.
        labels: Names of the classes, by index; classes past their end have none.
    Returns:
        BYTES of shape (rows, n) or (n,), where n is `count`, or the length of a row if that is less.
    Raises:
        InvalidArgument: The elements are no numbers.
    """
    if output.dtype.kind not in KINDS:
        raise InvalidArgument(
            f"classification needs numbers, but the output is {datatype_of(output.dtype)}; leave it out"
        )
    rows = output.shape[0] if batched else 1
    scores = output.reshape(rows, output.size // rows if rows else 0)
    classes = np.empty((rows, min(count, scores.shape[1])), np.object_)
    for row, values in enumerate(scores):
        # NaN is no better than anything, and equal values stand in the order of their places.
        order = np.argsort(-_comparable(values), kind="stable")[: classes.shape[1]]
        classes[row] = [_text(values[index], int(index), labels).encode() for index in order]
    return classes if batched else classes[0]


def _comparable(values: Array) -> Array:
    if values.dtype.kind in "iu":
        # Negated: Python's integers, because the least of a signed type has no counterpart and an unsigned one has none at all.
        return values.astype(np.object_) if values.dtype.itemsize == 8 else values.astype(np.int64)
    return values.astype(np.float64)


def _text(value: object, index: int, labels: Sequence[str]) -> str:
    number = f"{value:d}" if isinstance(value, np.integer) else f"{float(value):.6f}"  # type: ignore[arg-type]
    return f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}"
