"""Over which shards the rows of a store's tables are spread, as one worker knows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from headrace.errors import FailedPrecondition, ShardMapChanged
from headrace.parameters.keys import Indices, Keys, arc_of, arc_owners
from headrace.parameters.known_shards import KnownShards, Shards
from headrace.parameters.operation import Operation
from headrace.parameters.row_shard import RowShardClient
from headrace.parameters.v1 import stores_pb2

Positions = slice | Indices
Result = TypeVar("Result")
Work = Callable[[Operation, int], Result]

_ALL = slice(None)


@dataclass(frozen=True)
class Spread:
    """All shards, and which rows each of them has.

    Args:
        clients: In the order of their ids.
        owners: The place of the shard of each arc among them, shape (`ARCS`,).
    """

    clients: Sequence[RowShardClient]
    owners: Indices
    _known: KnownShards[RowShardClient] | Shards[RowShardClient]

    def do(self, work: Work[Result]) -> list[Result]:
        """Do `work` with every shard at once, by its place among them."""
        known = self._known
        return known.do(work) if isinstance(known, Shards) else known.first(work)

    def positions(self, keys: Keys) -> list[Positions]:
        """Return where in `keys` those of each shard are."""
        if len(self.clients) == 1:
            return [_ALL]
        shards = self.owners[arc_of(keys)]
        return [np.flatnonzero(shards == place) for place in range(len(self.clients))]


class Spreads:
    """Knows how rows are spread, and hears of it when that changes.

    A store without dense values has no shard map yet, and cannot change its shards: its rows are spread as by a first one.
    """

    def __init__(self, known: KnownShards[RowShardClient]) -> None:
        self._known = known
        self._found: Sequence[stores_pb2.Store] | None = None
        self._has_map = False

    @property
    def stores(self) -> Sequence[stores_pb2.Store]:
        """What the shards said of themselves when they were asked first.

        Raises:
            FailedPrecondition: These are not the store's shards.
        """
        if self._found is None:
            try:
                self._found, self._has_map = self._known.current.stores, True
            except FailedPrecondition:
                clients = self._known.clients
                self._found = self._known.first(lambda operation, index: clients[index].get(operation))
                if all(store.initialized for store in self._found):
                    raise
        return self._found

    def by_map(self, work: Callable[[Spread], Result]) -> Result:
        """Do `work`, which may safely run twice, and again whenever it meets shards that go by another map."""
        if self.stores and not self._has_map:
            clients = self._known.clients
            try:
                return work(Spread(clients, arc_owners(len(clients)), self._known))
            except ShardMapChanged:
                self._has_map = True
        return self._known.by_map(lambda shards: work(_by(shards)))


def _by(shards: Shards[RowShardClient]) -> Spread:
    shard_map = shards.placement.map
    return Spread(shards.clients, np.searchsorted(shard_map.shards, shard_map.arc_owners), shards)
