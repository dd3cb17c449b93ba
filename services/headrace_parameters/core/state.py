"""All of a shard that a snapshot keeps, as named tensors and one line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from headrace.errors import InvalidArgument, NonFiniteValues
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.rows.state import TableState

_FORMAT = "headrace.parameters.shard/2"
_OPTIMIZER = "optimizer."
_TABLE = "table."


@dataclass(frozen=True)
class ShardState:
    """Everything that decides what a shard does next.

    Args:
        shard_index: The shard's id in `map`.
        optimizer: Kind of the optimizer that `optimizer_state` belongs to.
        last_steps: Last step of each worker that was applied, if any was.
        values: Shape (shard's length,), float32.
        tables: Rows by name of their table.
    """

    layout: FlatLayout
    shard_index: int
    map: ShardMap
    optimizer: str
    version: int
    last_steps: Mapping[int, int]
    values: torch.Tensor
    optimizer_state: Mapping[str, torch.Tensor]
    tables: Mapping[str, TableState] = field(default_factory=dict)

    def encode(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return tensors and metadata, as a safetensors file has them."""
        tensors = {_OPTIMIZER + name: tensor for name, tensor in self.optimizer_state.items()}
        facts: dict[str, Any] = {
            "tensors": [[tensor.name, list(tensor.shape)] for tensor in self.layout.tensors],
            "shard_index": self.shard_index,
            "map": _map_to_json(self.map),
            "optimizer": self.optimizer,
            "version": self.version,
            "last_steps": sorted(self.last_steps.items()),
            "tables": {},
        }
        for name, table in self.tables.items():
            rows, facts["tables"][name] = table.encode()
            tensors |= {f"{_TABLE}{name}.{part}": tensor for part, tensor in rows.items()}
        return {"values": self.values, **tensors}, {"format": _FORMAT, "shard": json.dumps(facts)}

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> "ShardState":
        """Read what `encode` wrote.

        Raises:
            InvalidArgument: It is something else.
        """
        if metadata.get("format") != _FORMAT:
            raise InvalidArgument(
                f"the artifact is not a snapshot of a parameter shard: its format is {metadata.get('format')!r}"
            )
        try:
            facts = json.loads(metadata["shard"])
            state = cls(
                layout=FlatLayout(tuple(TensorSpec(name, tuple(shape)) for name, shape in facts["tensors"])),
                shard_index=facts["shard_index"],
                map=_map_from_json(facts["map"]),
                optimizer=facts["optimizer"],
                version=facts["version"],
                last_steps={int(worker): int(step) for worker, step in facts["last_steps"]},
                values=tensors["values"],
                optimizer_state={
                    name.removeprefix(_OPTIMIZER): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(_OPTIMIZER)
                },
                tables={
                    name: TableState.decode(_part(tensors, f"{_TABLE}{name}."), found)
                    for name, found in facts["tables"].items()
                },
            )
            length = state.map.length(state.shard_index)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidArgument(f"the snapshot is damaged: {error!r}") from error
        if state.map.size != state.layout.size or state.shard_index not in state.map.shards:
            raise InvalidArgument("the snapshot is damaged: its shard map is of another model or store")
        if state.values.shape != (length,) or state.values.dtype != torch.float32:
            raise InvalidArgument(f"the snapshot is damaged: its values are not {length} of float32")
        return state

    def check_finite(self) -> None:
        """Raise NonFiniteValues if there is a NaN or an infinity in it."""
        tensors = [self.values, *self.optimizer_state.values()]
        tensors += [tensor for table in self.tables.values() for tensor in (table.values, table.state)]
        if not all(torch.isfinite(tensor).all() for tensor in tensors):
            raise NonFiniteValues("the snapshot holds a NaN or an infinity")


def _map_to_json(shard_map: ShardMap) -> dict[str, Any]:
    shards = [
        [
            shard,
            [[part.start, part.stop] for part in shard_map.held(shard)],
            shard_map.addresses.get(shard, ""),
        ]
        for shard in shard_map.shards
    ]
    return {"epoch": shard_map.epoch, "size": shard_map.size, "blocks": shard_map.blocks, "shards": shards}


def _map_from_json(facts: dict[str, Any]) -> ShardMap:
    return ShardMap(
        epoch=facts["epoch"],
        size=facts["size"],
        blocks=facts["blocks"],
        ranges={shard: tuple(range(*part) for part in held) for shard, held, _ in facts["shards"]},
        addresses={shard: address for shard, _, address in facts["shards"] if address},
    )


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
