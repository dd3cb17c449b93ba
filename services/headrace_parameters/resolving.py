"""Shards that have staged and were not told what was decided: they ask, however long it takes, and then do it."""

import threading
from collections.abc import Mapping
from functools import partial

import structlog

from headrace.errors import HeadraceError, NotFound
from headrace.names import StoreName
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY
from headrace.parameters.wire import map_from_proto
from headrace.pauses import Pauses
from headrace_parameters.core.config import Durability
from headrace_parameters.core.decision import decided
from headrace_parameters.moving_wire import plan_from_proto
from headrace_parameters.participant import Participant
from headrace_parameters.peers import Peers
from headrace_parameters.plan import Plan
from headrace_parameters.recovered import recovered
from headrace_parameters.table import StoreTable

log = structlog.get_logger(__name__)

_PAUSES = Pauses(first_s=0.02, longest_s=1.0)  # between two rounds of questions


class Resolver:
    """Finds out what was decided: of the coordinator, or of any other shard that knows."""

    def __init__(self, table: StoreTable, peers: Peers) -> None:
        self._table = table
        self._peers = peers
        self._heard: dict[StoreName, Mapping[int, str]] = {}

    def resume(self) -> list[Participant]:
        """Take up what a former process of this folder had staged, before anyone can ask; return what is held until it is resolved."""
        held = []
        while self._table.in_doubt:  # a store that has ended is not kept here
            doubt = self._table.in_doubt.pop()
            assert doubt.following.plan is not None, "what is staged is staged by a plan"
            if not doubt.store.alive:  # its run is over, and nobody goes by either map
                doubt.following.journal.destroy()
                continue
            plan = plan_from_proto(doubt.following.plan)
            reserve = partial(self._table.reserve_rows, doubt.store.config.name)
            staged = recovered(doubt.following, reserve, doubt.store)
            part = Participant(self._table, doubt.store, plan, staged)
            if _has_not_decided(part):
                part.give_up()
            else:
                held.append(part)
        return held

    def hear(self, store: StoreName, addresses: Mapping[int, str]) -> None:
        """Take note of where the shards of a store are now: processes may have come back elsewhere than they were."""
        self._heard[store] = addresses

    def resolve(self, part: Participant) -> None:
        """Commit or give up, as was decided; neither, if the store ends before that is known."""
        name = part.store.config.name
        pause, pauses = threading.Event(), iter(_PAUSES)
        while part.store.alive and not part.ended:
            found = False if _has_not_decided(part) else self._ask_all(part)
            if found is not None and self._done(part, found):
                log.info("resharding_resolved", store=str(name), committed=found)
                self._heard.pop(name, None)
                return
            pause.wait(next(pauses))
        part.leave()

    def _done(self, part: Participant, committed: bool) -> bool:
        try:
            if committed:
                part.commit()
                part.clear()
            else:
                part.give_up()
        except HeadraceError as error:
            log.warning("decision_not_followed", store=str(part.store.config.name), why=error.message)
            return False
        return True

    def _ask_all(self, part: Participant) -> bool | None:
        plan, name = part.plan, part.store.config.name
        own = None if plan.terms else part.store.config.shard_index
        addresses = {**plan.addresses, **self._heard.get(name, {})}
        others = addresses.keys() - {own, plan.coordinator}
        asked = [(shard, addresses[shard]) for shard in (plan.coordinator, *sorted(others))]
        asked += plan.replicas.items()  # they may serve by now
        for shard, address in asked:
            found = self._ask(part, address, of_coordinator=shard == plan.coordinator)
            if found is not None:
                return found
        return None

    def _ask(self, part: Participant, address: str, *, of_coordinator: bool) -> bool | None:
        """Ask a shard whether the next map holds; None: it is not decided, or cannot be asked."""
        plan, config = part.plan, part.store.config
        try:
            found = self._peers.get(address, str(config.name))
        except NotFound:
            # Of a store in memory: it is gone there, and its values with it. Others may come back elsewhere, or are elsewhere too.
            return False if of_coordinator and config.durability is Durability.MEMORY else None
        except HeadraceError as error:
            log.debug("shard_not_reached", address=address, why=error.message)
            return None
        if found.epoch != config.epoch:
            return False if found.epoch > config.epoch else None
        if not (_serves(found, plan) or self._is_own_replica(part, found)) or not found.shard_map.epoch:
            return None  # what it knows counts for nothing, or it would join
        making = found.next_map_epoch
        if found.next_map_agreed and found.shard_index == config.shard_index and making == plan.next.epoch:
            return part.store.follows or None  # the primary changes once its replica, which asks, has
        return decided(config.shard_index, plan.now, plan.next, map_from_proto(found.shard_map), making)

    @staticmethod
    def _is_own_replica(part: Participant, found: stores_pb2.Store) -> bool:
        """Tell whether it is the replica that the coordinator, which asks, has told to change, and that has."""
        shard = part.store.config.shard_index
        leads = shard == part.plan.coordinator and not part.store.follows
        return leads and found.shard_index == shard and found.shard_map.epoch == part.plan.next.epoch


def _has_not_decided(part: Participant) -> bool:
    """Tell whether it is the coordinator, or serves in its place, and so knows that the next map holds nowhere, and never will."""
    plan, store = part.plan, part.store
    if plan.coordinator != store.config.shard_index:
        return False
    return not plan.terms or (store.serves and store.term > plan.terms[plan.coordinator])


def _serves(store: stores_pb2.Store, plan: Plan) -> bool:
    """Tell whether a process speaks for its shard, or did when the plan was made."""
    known = store.assignment.term >= plan.terms.get(store.shard_index, 0)
    return not store.HasField("assignment") or (known and store.assignment.role == STORE_ROLE_PRIMARY)
