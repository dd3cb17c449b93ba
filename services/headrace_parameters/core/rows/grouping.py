"""Keys that are named more than once in a call."""

import numpy as np

from headrace.parameters.keys import Keys
from headrace.parameters.layout import Floats
from headrace_parameters.core.rows import kernels


def distinct(keys: Keys) -> Keys:
    """Return each key once, in the order in which they come first."""
    groups, firsts = np.empty(keys.size, np.int64), np.empty(keys.size, np.int64)
    return keys[firsts[: kernels.group(keys, groups, firsts)]]


def summed(keys: Keys, gradient: Floats) -> tuple[Keys, Floats]:
    """Return each key once, with the sum of its gradients in the order in which they came; shape (k,) and (k, dim)."""
    groups, firsts = np.empty(keys.size, np.int64), np.empty(keys.size, np.int64)
    count = kernels.group(keys, groups, firsts)
    if count == keys.size:
        return keys, gradient
    total = np.zeros((count, gradient.shape[1]), np.float32)
    kernels.sum_groups(gradient, groups, total)
    return keys[firsts[:count]], total
