"""Clipping by the norm of the whole gradient."""

import math

import torch

_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it


def squared_norm(gradient: torch.Tensor) -> float:
    """Return the sum of the squares; those of the parts of a vector add up to that of the whole."""
    # In float64: the sum over parts is then the same to far below 1e-6, however the vector is cut.
    norm: float = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
    return norm * norm


def clip_factor(squared_norm: float, maximum: float) -> float:
    """Return what a gradient of this norm is multiplied with so that its norm is at most about `maximum`."""
    return min(1.0, maximum / (math.sqrt(squared_norm) + _EPSILON))
