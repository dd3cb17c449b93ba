"""What a rank computes with, however its parameters lie in memory."""

from collections.abc import Mapping
from typing import Protocol

import torch

from headrace.parameters.layout import FlatLayout
from headrace_optimizers.embedding import EmbeddingTable
from headrace_training.core.device import Device


class Model(Protocol):
    """A module, and what is done with all of its trainable parameters or gradients."""

    module: torch.nn.Module
    device: Device  # where all of it is
    layout: FlatLayout
    values: torch.Tensor  # where the synchronizer writes what the ranks agree on
    gradient: torch.Tensor  # where backward writes
    tables: tuple[EmbeddingTable, ...]
    buffers: tuple[torch.Tensor, ...]  # of the module

    def begin(self, step: int) -> None:
        """Compute `step` from now on, with a gradient that is 0."""

    def use_tables_for(self, step: int) -> None:
        """Use the rows of tables that `step` is to be computed with."""

    def gradient_norm(self) -> float:
        """Return the L2 norm of the gradient: finite only if all of it is."""

    def non_finite_gradient(self) -> str:
        """Name the first tensor whose gradient holds a NaN or an infinity; empty if all are finite."""

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """Become what `state` once returned."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the whole state dict on the host, buffers and untrained parameters included."""
