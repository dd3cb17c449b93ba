"""The shards of a store as one worker knows them, and how it hears that others have joined or left."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import grpc

from headrace.errors import Cancelled, NotFound, ShardMapChanged, Unavailable
from headrace.parameters.encoded import compression_from_proto
from headrace.parameters.filters.config import Compression
from headrace.parameters.operation import Operation
from headrace.parameters.placement import Placement
from headrace.parameters.route import Replicas, Route, Routed
from headrace.parameters.shard import ShardClient
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.together import Together
from headrace.parameters.v1 import stores_pb2
from headrace.rpc.channel import open_channel

_PAUSE_S = 0.05  # until a shard that has not heard of the newest map yet is asked again


class OfMap(Routed, Protocol):
    """A client of one shard of a map.

    Attributes:
        generation: Of the members, as of the last place that the worker took.
    """

    generation: int

    def follow(self, map_epoch: int, compression: Compression) -> None:
        """Go by this shard map, and do this to gradients."""


Result = TypeVar("Result")
Client = TypeVar("Client", bound=OfMap)


@dataclass(frozen=True)
class Shards(Generic[Client]):
    """All shards of a store by one map, in the order of their ids, and where each value is.

    Args:
        stores: What they said of themselves.
    """

    placement: Placement
    stores: Sequence[stores_pb2.Store]
    clients: Sequence[Client]
    together: Together

    def do(self, work: Callable[[Operation, int], Result]) -> list[Result]:
        """Do `work` with every shard at once, by its place among them."""
        return self.together.do(work)


DenseShards: TypeAlias = Shards[ShardClient]


def take_back(shards: DenseShards, nonce: bytes, sequence: int) -> None:
    """Return when no shard reads any more what the worker has lent."""
    for client in shards.clients:
        client.take_back(nonce, sequence)


class KnownShards(Generic[Client]):
    """Finds the shards of a store, and finds them anew when its map has changed.

    Args:
        shards: Addresses of the shards there are, or were once, or channels, which stay the caller's.
        connect: Makes a client of the shard at the other end of a channel.
        timeout_s: Of everything that is done with all of them.
        replicas: Where the shards are beside their primaries.
    """

    def __init__(
        self,
        shards: Sequence[str | grpc.Channel],
        connect: Callable[[grpc.Channel], Client],
        timeout_s: float,
        replicas: Replicas = Replicas(),  # noqa: B008 - it never changes
    ) -> None:
        self._connect = connect
        self.timeout_s = timeout_s
        self._finding = threading.Lock()
        self._closed = False
        self._used: list[Together] = []
        self._replicas = replicas
        self._of: dict[int, Route[Client]] = {}  # by the id of their shard, once that is known
        self._routes = [self._open(shard, *replicas.of(index)) for index, shard in enumerate(shards)]
        self._all = list(self._routes)  # those that have left, too
        self._together = self._new_together()
        self._current: Shards[Client] | None = None

    def close(self) -> None:
        """End what runs, which then raises Cancelled; so does whatever comes later."""
        self._closed = True
        for together in list(self._used):
            together.close()

    def check_open(self) -> None:
        """Raise Cancelled after `close`."""
        if self._closed:
            raise Cancelled("the client is closed")

    def close_channels(self) -> None:
        """Free the connections, after `close`."""
        for route in self._all:
            route.close()

    @property
    def clients(self) -> Sequence[Client]:
        """The shards as of the last call."""
        return [route.shard for route in self._routes]

    @property
    def all(self) -> Sequence[Client]:
        """The shards, and those that have left."""
        return [route.shard for route in self._all]

    @property
    def current(self) -> Shards[Client]:
        """The shards there are; asked for once.

        Raises:
            FailedPrecondition: Nobody has initialized the store yet, or these are not its shards.
        """
        with self._finding:
            if self._current is None:
                self._current = self._find()
            return self._current

    def forget(self) -> None:
        """Ask again the next time."""
        self._current = None

    def first(self, work: Callable[[Operation, int], Result]) -> list[Result]:
        """Do `work` with the shards as they are known, before their map is."""
        return self._together.do(work)

    def by_map(self, work: Callable[[Shards[Client]], Result]) -> Result:
        """Do `work`, which may safely run twice, and again with the next shards whenever it meets a map that has changed."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            shards = self.current
            try:
                return work(shards)
            except (ShardMapChanged, NotFound) as error:
                self.forget()
                same = self.current.placement.map.epoch == shards.placement.map.epoch
                # Not found: by another map, it was on a shard that has left, and of which nothing is left by now.
                if time.monotonic() >= deadline or (same and isinstance(error, NotFound)):
                    raise
            if same:
                self._together.pause(_PAUSE_S)

    def _find(self) -> Shards[Client]:
        told: list[stores_pb2.Store] = []
        gone: list[NotFound] = []

        def ask(operation: Operation, index: int) -> stores_pb2.Store | None:
            try:
                store = self._routes[index].shard.get(operation)
            except NotFound as error:
                gone.append(error)
                return None
            except Unavailable:
                if self._is_in(told, self._routes[index]):
                    raise
                return None  # others know where all are; this one may have left for good
            told.append(store)
            return store

        answers = self._together.do(ask)
        if gone and not any(shard.address for store in told for shard in store.shard_map.shards):
            raise gone[0]  # it has not left: shards never changed
        placement = Placement.of([store for store in answers if store])
        if placement.map.addresses:
            self._rearrange(placement.map, answers)
        else:
            placement.check_order([store.shard_index for store in answers if store])
        self._of |= dict(zip(placement.map.shards, self._routes, strict=True))
        for number, route in self._of.items():
            route.find = self._replicas.finder(number)
        stores = [store for store in answers if store]
        generation = max(
            shard.generation for shard in self.all
        )  # of the worker's place, which does not change
        for shard in self.clients:
            shard.generation = generation
            shard.follow(placement.map.epoch, compression_from_proto(stores[0].compression))
        return Shards(placement, stores, self.clients, self._together)

    def _is_in(self, told: Sequence[stores_pb2.Store], route: Route[Client]) -> bool:
        """Tell whether the shard that does not answer is one of those that others know of; it is asked for where they have it, too."""
        maps = [store.shard_map for store in told if any(shard.address for shard in store.shard_map.shards)]
        newest = max(maps, key=lambda each: each.epoch, default=None)
        mine = [shard for shard in newest.shards if self._of.get(shard.shard) is route] if newest else []
        for shard in mine:
            route.may_lead_to(shard.address)
        return bool(mine) or newest is None

    def _rearrange(self, shard_map: ShardMap, answers: Sequence[stores_pb2.Store | None]) -> None:
        """Know the shards of this map, in their order; those that were known before keep what they have mapped."""
        known = {
            store.shard_index: route
            for route, store in zip(self._routes, answers, strict=True)
            if store and store.initialized and store.shard_index in shard_map.shards
        }
        found = [
            known[shard] if shard in known else self._open(shard_map.addresses[shard])
            for shard in shard_map.shards
        ]
        if found == self._routes:
            return
        self._all += [route for route in found if route not in self._all]
        self._routes = found
        self._together = self._new_together()

    def _open(
        self,
        shard: str | grpc.Channel,
        replica: str = "",
        find: Callable[[], Sequence[str]] | None = None,
    ) -> Route[Client]:
        channel, address = (
            (open_channel(shard, reads_itself=True), shard) if isinstance(shard, str) else (shard, "")
        )
        return Route(self._connect(channel), channel, address, replica, find)

    def _new_together(self) -> Together:
        together = Together(len(self._routes), self.timeout_s, self._routes)
        self._used.append(together)
        if self._closed:  # looked at after it can be found: whichever of the two comes last closes it
            together.close()
        return together
