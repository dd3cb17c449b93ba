"""A model of which each rank holds a part: torch's FSDP2 (`fully_shard`), over whatever group is torch's default one.

A block's parameters are brought together before it computes and let go afterwards; its gradients are summed over the ranks, and each
rank keeps its part, while backward goes on (Zhao et al. 2023, arXiv:2304.11277).
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from headrace_optimizers.embedding import tables_of
from headrace_training.core.blocks import blocks_of
from headrace_training.core.device import HOST, Device
from headrace_training.core.flat_model import layout_of, trainable

c10d: Any = torch.distributed  # torch's own stubs leave out half of what follows


class ShardedModel:
    """A `Model` whose parameters are whole until `shard`, and then this rank's part of each: rows of its first axis.

    What is said of all parameters or gradients takes all ranks: they call alike. `values` and `gradient` are empty, as neither lies in one piece.
    """

    def __init__(self, module: torch.nn.Module, device: Device = HOST, *, bf16: bool) -> None:
        """Hold a model.

        Args:
            device: Where it is to be.
            bf16: Blocks compute, and their parameters travel, in bfloat16; gradients are summed in fp32.
        Raises:
            InvalidArgument: A parameter is not float32, none can be trained, or it has no blocks.
        """
        self.module, self.device = module.to(device.place), device
        self.layout = layout_of(trainable(module))
        self.tables = tables_of(module)
        self.buffers = tuple(module.buffers())
        self.values, self.gradient = device.zeros(0), device.zeros(0)
        self._blocks, self._bf16 = blocks_of(module), bf16

    def shard(self) -> None:
        """Take rank 0's values, and keep this rank's part of them."""
        for value in [*self.module.parameters(), *self.module.buffers()]:
            c10d.broadcast(value.detach(), 0)
        mesh = init_device_mesh(self.device.place.type, (c10d.get_world_size(),))
        dtype = torch.bfloat16 if self._bf16 else None
        for part in [*self._blocks, self.module]:
            root = part is self.module
            policy = MixedPrecisionPolicy(
                param_dtype=dtype,
                reduce_dtype=torch.float32,
                output_dtype=torch.float32 if root else None,
            )
            sharded = fully_shard(part, mesh=mesh, mp_policy=policy)
            sharded.set_gradient_divide_factor(1.0)  # what is summed are parts of the mean
            # gloo has no other one, and one way on all devices is enough.
            sharded.set_force_sum_reduction_for_comms(True)
        self._parameters = trainable(self.module)

    @property
    def parts(self) -> Mapping[str, torch.Tensor]:
        """This rank's part of each parameter; what is written there is what the model knows."""
        return {name: _part(parameter.detach()) for name, parameter in self._parameters.items()}

    @property
    def gradient_parts(self) -> Mapping[str, torch.Tensor]:
        """This rank's part of each gradient, summed over the ranks."""
        return {
            name: torch.zeros_like(_part(parameter.detach()))
            if parameter.grad is None
            else _part(parameter.grad)
            for name, parameter in self._parameters.items()
        }

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """Bring the parts of all ranks together, which lie as those of a parameter do; all ranks call."""
        like = cast("DTensor", self._parameters[name].detach())
        placed = DTensor.from_local(
            part.view(like.to_local().shape),
            like.device_mesh,
            like.placements,
            shape=like.shape,
            stride=like.stride(),
        )
        return placed.full_tensor()

    def part_of(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """Cut out this rank's part of a tensor of the host that lies as a parameter does."""
        return _cut(cast("DTensor", self._parameters[name].detach()), whole)

    def begin(self, step: int) -> None:  # noqa: ARG002 - there are no tables
        """Let go of the gradient."""
        self.module.zero_grad(set_to_none=True)

    def use_tables_for(self, step: int) -> None:
        """Do nothing: a model with tables does not come this far."""

    def gradient_norm(self) -> float:
        """Return the L2 norm of the mean gradient of all ranks."""
        parts = self.gradient_parts.values()
        squared = sum(torch.linalg.vector_norm(part, dtype=torch.float64) ** 2 for part in parts)
        total = torch.as_tensor(squared, dtype=torch.float64).reshape(1)
        c10d.all_reduce(total)
        return float(total.sqrt())

    def non_finite_gradient(self) -> str:
        """Name the first tensor whose gradient is not finite on some rank."""
        bad = torch.tensor(
            [not part.isfinite().all() for part in self.gradient_parts.values()], dtype=torch.int32
        )
        c10d.all_reduce(bad)
        return next((name for name, flag in zip(self._parameters, bad.tolist(), strict=True) if flag), "")

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """Become what `state` once returned, on rank 0; every rank is given all of it, and takes its part."""
        for name, value in self.module.state_dict(keep_vars=True).items():
            with torch.no_grad():
                if isinstance(value, DTensor):
                    value.to_local().copy_(_cut(cast("DTensor", value.detach()), state[name]))
                else:
                    value.copy_(state[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the whole state dict on rank 0's host, and nothing on the others; one tensor at a time is brought together."""
        leads, whole = c10d.get_rank() == 0, {}
        for name, value in self.module.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if leads:
                whole[name] = full.detach().to("cpu", copy=True).contiguous()
        return whole


def _part(tensor: torch.Tensor) -> torch.Tensor:
    return cast("DTensor", tensor).to_local()


def _cut(like: DTensor, whole: torch.Tensor) -> torch.Tensor:
    placed = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return placed.to_local()
