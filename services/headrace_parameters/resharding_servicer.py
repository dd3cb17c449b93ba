"""The Resharding service on the wire."""

import threading
from collections.abc import Iterator

import numpy as np
import structlog
from grpc import ServicerContext

from headrace.errors import Aborted, FailedPrecondition, HeadraceError, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.keys import ARCS
from headrace.parameters.layout import FlatLayout
from headrace.parameters.v1 import resharding_pb2, resharding_pb2_grpc
from headrace.parameters.v1.resharding_pb2 import ParticipateRequest, ParticipateResponse
from headrace.parameters.wire import carry, map_to_proto
from headrace_parameters.assembly import selected
from headrace_parameters.coordinator import Coordinator
from headrace_parameters.live import LiveStore
from headrace_parameters.move import parts_of
from headrace_parameters.moving_rows import messages
from headrace_parameters.moving_wire import (
    facts_to_proto,
    plan_from_proto,
    rows_from_proto,
    stage_from_proto,
    standing_to_proto,
)
from headrace_parameters.participant import Participant, Sources
from headrace_parameters.peers import Peers, PeerSources
from headrace_parameters.plan import Plan
from headrace_parameters.planning import plan_change
from headrace_parameters.resolving import Resolver
from headrace_parameters.table import StoreTable

log = structlog.get_logger(__name__)

_LONGEST_S = 60.0  # of a resharding without a nearer deadline: pushes wait no longer for it
_SHARE = 0.8  # of the time a caller allows, for everything up to the decision


class ReshardingServicer(resharding_pb2_grpc.ReshardingServicer):
    """Leads reshardings, takes part in them, and gives others the values they take over."""

    def __init__(self, table: StoreTable, peers: Peers) -> None:
        self._table = table
        self._peers = peers
        self._resolver = Resolver(table, peers)

    def resume(self) -> None:
        """Take up what a former process was in the middle of, before anyone can ask."""
        for part in self._resolver.resume():
            self._begin_to_resolve(part)

    def _begin_to_resolve(self, part: Participant) -> None:
        threading.Thread(target=self._resolver.resolve, args=[part], name="resolve", daemon=True).start()

    def Reshard(
        self, request: resharding_pb2.ReshardRequest, context: ServicerContext
    ) -> resharding_pb2.ReshardResponse:
        """Make the next map."""
        store = self._fenced(request.store, request.epoch)
        store.check_serves()
        if _is_done(store, request):
            assert store.map is not None
            return resharding_pb2.ReshardResponse(shard_map=map_to_proto(store.map))
        store.check_map(request.map_epoch)
        if store.term and store.next_map:
            # Before anyone is asked: others may know more by now, as if the request were wrong.
            raise Aborted(
                f"{request.store} changes its shards already, or finds out whether it has; ask again"
            )
        # The caller shall hear why nothing came of it, and when it does, pushes shall not wait any more.
        bound_s = min(_LONGEST_S, context.time_remaining()) * _SHARE
        plan = plan_change(store, self._peers, request.shards, request.add, request.remove)
        own = self._participant(store, plan)
        sources = self._sources_for(own, bound_s)
        paused_s = Coordinator(own, self._peers, sources, bound_s, self._begin_to_resolve).lead()
        log.info(
            "resharded",
            store=request.store,
            map_epoch=plan.next.epoch,
            shards=plan.next.shards,
            paused_s=paused_s,
        )
        return resharding_pb2.ReshardResponse(shard_map=map_to_proto(plan.next), paused_s=paused_s)

    def Participate(
        self, request_iterator: Iterator[ParticipateRequest], context: ServicerContext
    ) -> Iterator[ParticipateResponse]:
        """Take part."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("step") != "hold":
            raise InvalidArgument("a resharding begins with hold", field="step")
        store = self._fenced(first.store, first.epoch)
        part = self._participant(store, plan_from_proto(first.hold))
        staged = False
        try:
            yield ParticipateResponse(standing=standing_to_proto(part.move.standing()))
            cut = dict(_next(request_iterator, "settle").settle.next_steps)
            bound_s = min(_LONGEST_S, context.time_remaining())
            context.add_callback(part.move.look_again)
            standing = part.settle(cut, bound_s, lambda: not context.is_active())
            yield ParticipateResponse(standing=standing_to_proto(standing))
            point = stage_from_proto(_next(request_iterator, "stage").stage)
            part.stage(point, self._sources_for(part, bound_s))
            staged = True
            if part.plan.terms:  # it may be told to serve at any moment, and shall know then what by
                self._begin_to_resolve(part)
            yield ParticipateResponse(staged=resharding_pb2.Staged())
            _next(request_iterator, "commit")
        except BaseException:
            if not staged:
                part.give_up()
            elif not part.plan.terms:
                self._resolver.resolve(part)
            raise
        try:
            part.commit()
        except HeadraceError:
            if not part.plan.terms:
                self._begin_to_resolve(part)  # it is decided, and tried until it can be done
            raise
        part.clear()
        yield ParticipateResponse(committed=resharding_pb2.Committed())

    def Fetch(
        self, request: resharding_pb2.FetchRequest, context: ServicerContext
    ) -> Iterator[resharding_pb2.FetchResponse]:
        """Give another shard what it takes over."""
        store, layout = self._held(request)
        ranges = [range(part.start, part.stop) for part in request.ranges]
        with store.alone():
            part = store.shard.part(request.workers)
        first = resharding_pb2.FetchResponse(facts=facts_to_proto(part.facts))
        yield from carry(first, list(selected(part, store.held(layout), ranges)))

    def FetchRows(
        self, request: resharding_pb2.FetchRowsRequest, context: ServicerContext
    ) -> Iterator[resharding_pb2.FetchRowsResponse]:
        """Give another shard the rows that it takes over."""
        store, _ = self._held(request)
        arcs = np.zeros(ARCS, np.bool_)
        for part in request.arcs:
            arcs[part.start : part.stop] = True
        for table, rows in parts_of(store, arcs, rows_from_proto(request.pending)):
            yield from messages(table, rows)

    def _held(
        self, request: resharding_pb2.FetchRequest | resharding_pb2.FetchRowsRequest
    ) -> tuple[LiveStore, FlatLayout]:
        """Return a store that is held for the next map, and its layout."""
        store = self._fenced(request.store, request.epoch)
        if store.next_map is None or store.next_map.epoch != request.map_epoch or store.layout is None:
            raise FailedPrecondition(
                f"{request.store} is not held for shard map {request.map_epoch}; begin the resharding again"
            )
        return store, store.layout

    def _participant(self, store: LiveStore, plan: Plan) -> Participant:
        if store.next_map:  # then it is refused, but perhaps it looks for the others since an earlier change
            self._resolver.hear(store.config.name, plan.now.addresses)
        return Participant(self._table, store, plan)

    def _sources_for(self, part: Participant, timeout_s: float) -> Sources:
        config = part.store.config
        return PeerSources(self._peers, config.name, config.epoch, part.plan.next.epoch, timeout_s)

    def _fenced(self, name: str, epoch: int) -> LiveStore:
        store = self._table.get(StoreName.parse(name, field="store"))
        store.config.fence(epoch)
        return store


def _next(requests: Iterator[ParticipateRequest], step: str) -> ParticipateRequest:
    request = next(requests, None)
    if request is None:
        raise FailedPrecondition(f"the resharding ended before {step}")
    if request.WhichOneof("step") != step:
        raise InvalidArgument(f"{step} must come next, not {request.WhichOneof('step')}", field="step")
    return request


def _is_done(store: LiveStore, request: resharding_pb2.ReshardRequest) -> bool:
    """Tell whether the request has been followed before."""
    now = store.map
    if now is None or now.epoch != (request.map_epoch or 1) + 1:
        return False
    if request.next:
        return set(now.shards) == set(request.next)
    return set(now.addresses.values()) == ({*request.shards, *request.add} - {*request.remove})
