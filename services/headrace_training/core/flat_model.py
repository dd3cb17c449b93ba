"""A model whose parameters, and whose gradients, are each one flat vector in memory, as they travel to the shards."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from headrace.errors import InvalidArgument
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.embedding import tables_of
from headrace_optimizers.table_config import check_tables
from headrace_training.core.device import HOST, Device


def _zeros(size: int) -> Floats:
    return np.zeros(size, np.float32)


class FlatModel:
    """Lays a model's trainable parameters into `values` and their gradients into `gradient`, both shape (N,), in the order of
    `named_parameters`.

    The model computes on this very memory: what is written into `values` is what it knows, without another copy.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        gradient_memory: Callable[[int], Floats] = _zeros,
        device: Device = HOST,
    ) -> None:
        """Move the parameters of `module`, which keep their values.

        Args:
            gradient_memory: Returns zeros, shape (N,), for the gradient to be computed in, if that is done on the host.
            device: Where the model is to be.
        Raises:
            InvalidArgument: A parameter is not float32, or none can be trained; or two tables have one name.
        """
        parameters = trainable(module.to(device.place))
        self.module, self.device = module, device
        self.tables = tables_of(module)
        self.buffers = tuple(module.buffers())
        check_tables(tuple(table.config for table in self.tables))
        self.layout = layout_of(parameters)
        size = self.layout.size
        self.values = device.zeros(size)
        self.gradient = torch.from_numpy(gradient_memory(size)) if device.is_host else device.zeros(size)
        values, gradients = self._views(self.values), self._views(self.gradient)
        for name, parameter in parameters.items():
            values[name].copy_(parameter.detach())
            parameter.data = values[name]
            parameter.grad = gradients[name]  # backward adds to it in place

    def begin(self, step: int) -> None:
        """Compute `step` from now on, with a gradient that is 0, where it lies."""
        self.gradient.zero_()
        self.use_tables_for(step)

    def use_tables_for(self, step: int) -> None:
        """Use the rows of tables that `step` is to be computed with."""
        for table in self.tables:
            table.begin(step)

    def gradient_norm(self) -> float:
        """Return the L2 norm of the gradient, rows included: finite only if all of it is; one pass, without memory."""
        rows = [torch.from_numpy(table.gradient()[1]) for table in self.tables]
        return math.hypot(*(float(torch.linalg.vector_norm(part)) for part in (self.gradient, *rows)))

    def non_finite_gradient(self) -> str:
        """Name the first tensor or table whose gradient holds a NaN or an infinity; empty if all are finite: large ones may overflow the
        norm.
        """
        tensors = self._views(self.gradient)
        tensors |= {table.config.name: torch.from_numpy(table.gradient()[1]) for table in self.tables}
        return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """Become what `state` once returned."""
        self.module.load_state_dict(dict(state))

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the whole state dict on the host, buffers and untrained parameters included."""
        return {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in self.module.state_dict().items()
        }

    def _views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return where each tensor of the layout lies in a vector, shape (N,)."""
        parts = torch.split(vector, [tensor.size for tensor in self.layout.tensors])
        return {
            tensor.name: part.view(tensor.shape)
            for tensor, part in zip(self.layout.tensors, parts, strict=True)
        }


def trainable(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that are trained, by name.

    Raises:
        InvalidArgument: One is not float32, or there is none.
    """
    found = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not found:
        raise InvalidArgument(
            "the model has no parameter that requires a gradient; there is nothing to train"
        )
    for name, parameter in found.items():
        if parameter.dtype != torch.float32:
            raise InvalidArgument(
                f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}; make it float32, as all must be"
            )
    return found


def layout_of(parameters: Mapping[str, torch.nn.Parameter]) -> FlatLayout:
    """Lay parameters out one after the other."""
    return FlatLayout(tuple(TensorSpec(name, tuple(it.shape)) for name, it in parameters.items()))
