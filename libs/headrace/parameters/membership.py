"""A worker's place among the members of its run, who may change while it goes on."""

import time
from collections.abc import Callable, Sequence

from headrace.errors import Aborted, DeadlineExceeded, MembersChanged, OutOfRange, StaleEpoch
from headrace.parameters.answers import Place
from headrace.parameters.known_shards import DenseShards
from headrace.parameters.shard import ShardClient
from headrace.parameters.v1.stores_pb2 import CONSISTENCY_BSP, Store
from headrace.pauses import Pauses

_PAUSES = Pauses(first_s=0.02, longest_s=0.5)


class Membership:
    """What one worker knows of the members; it tells the clients of all shards the generation to push with."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._was_member = False

    def take_place(self, shards: DenseShards, receive: Callable[[int | None], object]) -> Place:
        """Wait until all shards know one generation with this worker in it, and receive the values its members begin with.

        Shards may be one step apart when the members change: the step is then computed again, with the values of the version before
        it, which those ahead still have.

        Args:
            receive: Pulls values as a member: of exactly this version, or the newest.
        Raises:
            StaleEpoch: This worker was a member and is none any more.
            Aborted: A shard has lost the values of the step.
            DeadlineExceeded: It did not become a member in time.
        """
        together = shards.together
        deadline, pauses = time.monotonic() + together.timeout_s, iter(_PAUSES)
        refused: list[int] = []
        while True:
            stores = shards.do(lambda operation, index: shards.clients[index].get(operation))
            place = self._find(stores, shards.clients)
            if place is not None:
                versions = [store.version for store in stores]
                try:
                    receive(min(versions) if stores[0].consistency == CONSISTENCY_BSP else None)
                except MembersChanged:
                    continue
                except OutOfRange as error:  # with backup workers the others may have gone on
                    if versions == refused:
                        raise Aborted(
                            f"step {min(versions)} cannot be computed again: {error.message}"
                        ) from error
                    refused = versions
                else:
                    return place
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"worker {self._worker} was not made a member of {stores[0].name} within {together.timeout_s:g} s"
                )
            together.pause(next(pauses))

    def _find(self, stores: Sequence[Store], clients: Sequence[ShardClient]) -> Place | None:
        """Return this worker's place; None: not all shards have heard of it yet."""
        newest = max(stores, key=lambda store: store.generation)
        if self._worker not in newest.workers:
            if self._was_member:
                raise StaleEpoch(
                    f"worker {self._worker} was left out of {newest.name} in generation {newest.generation}; stop, others do its work",
                    metadata={"generation": newest.generation},
                )
            return None
        self._was_member = True
        if any(store.generation < newest.generation for store in stores):
            return None
        for shard in clients:
            shard.generation = newest.generation
        bsp = newest.consistency == CONSISTENCY_BSP
        return Place(
            index=list(newest.workers).index(self._worker),
            count=len(newest.workers),
            generation=newest.generation,
            step=min(store.version for store in stores) if bsp else 0,
        )
