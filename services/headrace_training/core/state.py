"""All of a run without shards that a checkpoint keeps, as named tensors and one line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from headrace.errors import InvalidArgument
from headrace.parameters.layout import FlatLayout, TensorSpec

_FORMAT = "headrace.training.state/1"
_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class TrainingState:
    """Everything that decides what the ranks do next.

    Args:
        step: Optimizer steps applied.
        optimizer: Kind of the optimizer that `optimizer_state` belongs to.
        values: Shape (N,), float32.
    """

    layout: FlatLayout
    step: int
    optimizer: str
    values: torch.Tensor
    optimizer_state: Mapping[str, torch.Tensor]

    def encode(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return tensors and metadata, as a safetensors file has them."""
        # On the host, so that a run can go on on another kind of device.
        tensors = {_OPTIMIZER + name: tensor.cpu() for name, tensor in self.optimizer_state.items()}
        facts = {
            "tensors": [[tensor.name, list(tensor.shape)] for tensor in self.layout.tensors],
            "step": self.step,
            "optimizer": self.optimizer,
        }
        return {"values": self.values.cpu(), **tensors}, {"format": _FORMAT, "state": json.dumps(facts)}

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> "TrainingState":
        """Read what `encode` wrote.

        Raises:
            InvalidArgument: It is something else.
        """
        if metadata.get("format") != _FORMAT:
            raise InvalidArgument(
                f"the artifact is no checkpoint of an all-reduce run: its format is {metadata.get('format')!r}",
                field="snapshot",
            )
        try:
            facts = json.loads(metadata["state"])
            state = cls(
                layout=FlatLayout(tuple(TensorSpec(name, tuple(shape)) for name, shape in facts["tensors"])),
                step=int(facts["step"]),
                optimizer=str(facts["optimizer"]),
                values=tensors["values"],
                optimizer_state={
                    name.removeprefix(_OPTIMIZER): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(_OPTIMIZER)
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"the checkpoint is damaged: {error!r}", field="snapshot") from error
        if state.values.shape != (state.layout.size,) or state.values.dtype != torch.float32:
            raise InvalidArgument(
                f"the checkpoint is damaged: its values are not {state.layout.size} of float32",
                field="snapshot",
            )
        return state


class Checkpoints(Protocol):
    """Where states are kept."""

    def save(self, state: TrainingState) -> str:
        """Store a state and return its artifact."""

    def load(self, artifact: str) -> TrainingState:
        """Return what was saved."""
