"""The rows of a table in parts, each with what changed since the one before: which of them count."""

from collections.abc import Sequence

import numpy as np
import torch

from headrace.parameters.keys import Indices, Keys
from headrace_parameters.core.rows.state import TableState


def newest(parts: Sequence[TableState]) -> list[Indices]:
    """Return which rows of each part no later part has, or tells to be removed; oldest part first, as they come."""
    chosen: list[Indices] = []
    later: Keys = np.zeros(0, np.uint64)  # ascending
    for part in reversed(parts):
        keys = _keys(part.keys)
        chosen.append(np.flatnonzero(~_among(keys, later)))
        if len(chosen) < len(parts):
            later = np.unique(np.concatenate([later, keys, _keys(part.removed)]))
    return chosen[::-1]


def _among(keys: Keys, others: Keys) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell of each key whether it is one of `others`, which ascend."""
    if not others.size:
        return np.zeros(keys.size, np.bool_)
    places = np.searchsorted(others, keys).clip(max=others.size - 1)
    return np.asarray(others[places] == keys)


def _keys(tensor: torch.Tensor) -> Keys:
    return tensor.numpy().view(np.uint64)
