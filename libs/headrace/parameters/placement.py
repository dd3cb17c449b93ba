"""A model over the shards of a store: which values travel to and from which shard."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.errors import FailedPrecondition
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.ranges import shared
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.wire import Piece, layout_from_proto, map_from_proto


@dataclass(frozen=True)
class Placement:
    """Where each value is; lists have one entry per shard, in the order of the shards' ids."""

    layout: FlatLayout
    map: ShardMap

    @classmethod
    def of(cls, stores: Sequence[stores_pb2.Store]) -> "Placement":
        """Read what shards of a store, one or more, say of themselves: the newest map holds.

        Raises:
            FailedPrecondition: Nobody has initialized the store yet.
        """
        newest = max(stores, key=lambda store: store.shard_map.epoch)
        if not all(store.initialized for store in stores) and newest.shard_map.epoch <= 1:
            raise FailedPrecondition(f"{newest.name} has no values yet; call initialize first")
        return cls(layout_from_proto(newest.tensors), map_from_proto(newest.shard_map))

    def check_order(self, shards: Sequence[int]) -> None:
        """Raise FailedPrecondition unless these are the ids of all shards, in their order."""
        if list(shards) != list(self.map.shards):
            raise FailedPrecondition(
                f"the store has the shards {list(self.map.shards)}, but the addresses given are those of {list(shards)}; "
                "give the addresses of all shards, in their order"
            )

    @property
    def lengths(self) -> list[int]:
        """How many values each shard holds."""
        return [self.map.length(shard) for shard in self.map.shards]

    def parts(self) -> list[tuple[range, ...]]:
        """Say which values of the flat vector each shard holds."""
        return [self.map.held(shard) for shard in self.map.shards]

    def pieces(self, flat: Floats) -> list[list[Piece]]:
        """Cut a flat vector, shape (N,), into what each shard holds of it; the pieces share its memory."""
        return self.selected([range(self.layout.size)], flat)

    def selected(self, ranges: Iterable[range], values: Floats) -> list[list[Piece]]:
        """Cut `values`, which hold these ranges of the flat vector one after the other, into what each shard holds of them."""
        chosen = tuple(ranges)
        return [
            [
                Piece(place.second, values[place.first : place.first + len(place.values)])
                for place in shared(chosen, held)
            ]
            for held in self.parts()
        ]

    def places(self, ranges: Iterable[range]) -> list[tuple[range, ...]]:
        """Say where in a vector that holds these ranges one after the other each shard's values are."""
        chosen = tuple(ranges)
        return [
            tuple(range(place.first, place.first + len(place.values)) for place in shared(chosen, held))
            for held in self.parts()
        ]
