"""Where the primary of a shard is: the process that was named first, or the one that holds the replica, if that has taken over."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import grpc

from headrace.errors import HeadraceError, NotFound, NotPrimary, Unavailable
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import stores_pb2
from headrace.rpc.channel import open_channel

_LEARN_S = 5.0  # to ask a primary where its replica is; without an answer the next term is another occasion
_LOOK_EVERY_S = 1.0  # whoever is asked where shards are is asked by all workers at once


@dataclass(frozen=True)
class Replicas:
    """Where the shards of a store are beside their primaries.

    Args:
        addresses: Of the replicas, by shard; "" where there is none. Left out: the primaries say.
        find: Called, with a shard, when nobody who is known serves it: returns where it is now, its primary first; nothing if it
            cannot say. It is no part of any call's deadline, and must be quick.
    """

    addresses: Sequence[str] = ()
    find: Callable[[int], Sequence[str]] | None = None

    def of(self, shard: int) -> tuple[str, Callable[[], Sequence[str]] | None]:
        """Return the address of a shard's replica, and what finds the shard."""
        address = self.addresses[shard] if self.addresses else ""
        return address, self.finder(shard)

    def finder(self, shard: int) -> Callable[[], Sequence[str]] | None:
        """Return what finds a shard."""
        return partial(self.find, shard) if self.find else None


class Routed(Protocol):
    """A client of one shard, which can be led to another process.

    Attributes:
        term: The greatest that a primary has answered in.
    """

    term: int

    def turn_to(self, channel: grpc.Channel) -> None:
        """Talk to another process, which has taken the shard over."""

    def get(self, operation: Operation) -> stores_pb2.Store:
        """Ask what the shard is; NotPrimary of a process that does not serve it."""


Client = TypeVar("Client", bound=Routed)


class Route(Generic[Client]):
    """The way to one shard. A primary says where its replica is, and each answer in which term it is: a new term, a new replica.

    Args:
        shard: Its client, which talks to the primary.
        channel: To the process that was named.
        address: Its address; empty if the channel is the caller's.
        replica: Address of the process that holds the replica, as far as is known; empty: the primary will say.
        find: As for `Replicas`, of this shard.
    """

    def __init__(
        self,
        shard: Client,
        channel: grpc.Channel,
        address: str = "",
        replica: str = "",
        find: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self.shard = shard
        self.find = find
        self._looked = -_LOOK_EVERY_S
        self._addresses = [address, *([replica] if replica else [])]
        self._empty: set[str] = set()  # processes that have said of late that they do not hold the shard
        self._channels = {address: channel}
        self._own = {address} - {""}
        self._now = 0
        self._term = 0

    def turn(self, why: HeadraceError) -> bool:
        """Go to another process that may serve the shard; return False if there is none."""
        if not isinstance(why, Unavailable | NotPrimary | NotFound):
            return False
        former = self._addresses[self._now]
        if isinstance(why, NotFound):  # a new process where the old one was
            self._empty.add(former)
        hint = why.metadata.get("primary", "") if isinstance(why, NotPrimary) else ""
        if hint and hint not in self._addresses:
            self._addresses.append(hint)
        all_asked = not hint and self._now == len(self._addresses) - 1
        if (all_asked and not self._look()) or not (self.find or len(self._addresses) > 1):
            return False
        self._now = self._addresses.index(hint) if hint else (self._now + 1) % len(self._addresses)
        if self._addresses[self._now] != former:
            self.shard.turn_to(self._channel(self._addresses[self._now]))
        return True

    def _look(self) -> bool:
        """Ask where the shard is, unless that was done just now; return False if it is nowhere."""
        if self.find is None:
            return not self._empty.issuperset(self._addresses)
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return True
        self._addresses = list(self.find()) or self._addresses
        self._now, self._looked = -1, time.monotonic()
        return not self._empty.issuperset(self._addresses)

    def learn(self, operation: Operation) -> None:
        """Ask where the replica is, if the shard has answered in a new term."""
        self._empty.clear()
        if self.shard.term <= self._term:
            return
        term = self.shard.term
        try:
            store = self.shard.get(operation.within(_LEARN_S))
        except HeadraceError:
            return
        self._term = term
        replica = store.assignment.replica
        self._addresses = [self._addresses[self._now], *([replica] if replica else [])]
        self._now = 0

    def may_lead_to(self, address: str) -> None:
        """Know another process that may serve the shard."""
        if address not in self._addresses:
            self._addresses.append(address)

    def close(self) -> None:
        """Free the connections."""
        for address in self._own:
            self._channels[address].close()

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address, reads_itself=True)
            self._own.add(address)
        return self._channels[address]
