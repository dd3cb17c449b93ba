"""All of a shard that a snapshot keeps, as named tensors and one line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from headrace.errors import InvalidArgument, NonFiniteValues
from headrace.parameters.keys import arcs_of, spans_of
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.shard_map import ShardMap
from headrace_optimizers.fused import kind_of
from headrace_parameters.core.clocks import Clocks
from headrace_parameters.core.config import Norms, StoreConfig
from headrace_parameters.core.exchange import Published
from headrace_parameters.core.joint import Measured
from headrace_parameters.core.members import Members
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
        last_steps: Last step of each member that was applied; -1 if none was.
        values: Shape (shard's length,), float32.
        tables: Rows by name of their table.
        epoch: The attempt whose members they are.
        members: None in snapshots of earlier releases.
        measured: The shard's norms of the last step, which others may still have to be finished with.
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
    epoch: int = 0
    members: Members | None = None
    measured: Mapping[Norms, Measured] = field(default_factory=dict)

    def check_fits(self, shard_index: int, shard_count: int, optimizer: str) -> None:
        """Raise InvalidArgument unless it is the state of this shard, with this kind of optimizer."""
        found = self.map.shards.index(self.shard_index), len(self.map.shards), self.optimizer
        for fact, theirs, own in zip(
            ("shard_index", "shard_count", "optimizer"),
            found,
            (shard_index, shard_count, optimizer),
            strict=True,
        ):
            if theirs != own:
                raise InvalidArgument(
                    f"the snapshot has {fact} {theirs}, this store {own}; restore each shard from its own snapshot",
                    field="artifact",
                )

    def members_for(self, epoch: int, own: Members) -> Members:
        """Return whose gradients count in a store of `epoch`, with members `own`, that becomes this.

        A later generation of the same attempt stays valid, so that no worker that was left out comes back. An attempt of its own has its
        own members; the schedule goes on where it was.
        """
        if self.members is None:
            return own
        newer = epoch == self.epoch and self.members.generation > own.generation
        return (self.members if newer else own).going_on(self.members, self.version)

    @classmethod
    def of(
        cls,
        config: StoreConfig,
        layout: FlatLayout,
        shard_map: ShardMap,
        members: Members,
        published: Published,
        clocks: Clocks,
        optimizer: Mapping[str, torch.Tensor],
        measured: Mapping[Norms, Measured],
    ) -> "ShardState":
        """Name what a shard has; its values are not copied."""
        return cls(
            layout=layout,
            shard_index=config.shard_index,
            map=shard_map,
            optimizer=kind_of(config.optimizer),
            version=published.version,
            last_steps={worker: clock - 1 for worker, clock in clocks.all.items()},
            values=torch.from_numpy(published.values),
            optimizer_state=optimizer,
            epoch=config.epoch,
            members=members,
            measured=measured,
        )

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
            "epoch": self.epoch,
            "members": asdict(self.members) if self.members else None,
            "measured": {kind.value: [it.step, list(it.squared_norms)] for kind, it in self.measured.items()},
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
                epoch=facts.get("epoch", 0),
                members=Members.read(facts.get("members")),
                measured={Norms(kind): Measured(*found) for kind, found in facts.get("measured", {}).items()},
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
    return {
        "epoch": shard_map.epoch,
        "size": shard_map.size,
        "blocks": shard_map.blocks,
        "shards": shards,
        "arcs": list(spans_of(shard_map.arcs)),
    }


def _map_from_json(facts: dict[str, Any]) -> ShardMap:
    return ShardMap(
        epoch=facts["epoch"],
        size=facts["size"],
        blocks=facts["blocks"],
        ranges={shard: tuple(range(*part) for part in held) for shard, held, _ in facts["shards"]},
        addresses={shard: address for shard, _, address in facts["shards"] if address},
        arcs=arcs_of(tuple(span) for span in facts.get("arcs", ())),
    )


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
