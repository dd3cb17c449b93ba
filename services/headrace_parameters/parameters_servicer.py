"""The Parameters service on the wire."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain

from grpc import ServicerContext

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.encoded import encoding_from_proto
from headrace.parameters.filters.encodings import Encoding
from headrace.parameters.malloc import give_back_freed_memory
from headrace.parameters.ranges import length, shared
from headrace.parameters.v1 import parameters_pb2, parameters_pb2_grpc
from headrace.parameters.wire import Piece, carried_bytes, carry, layout_from_proto, receive
from headrace_optimizers.table_wire import tables_from_proto
from headrace_parameters.bringing import Bring, first_of, streamed
from headrace_parameters.core.config import Norms
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.need import Need
from headrace_parameters.core.shard import Published, Push
from headrace_parameters.live import LiveStore
from headrace_parameters.metering import Meter
from headrace_parameters.recycled import passing_memory
from headrace_parameters.table import StoreTable
from headrace_parameters.waits import wait_for_norms, wait_for_values
from headrace_parameters.wire import covered, norms_from_proto

# A call without a deadline waits no longer than this.
_LONGEST_WAIT_S = 600.0
# The answer "not in time, worker 3 is missing" must reach the caller before it stops to listen, from a busy machine too.
_LAST_WORDS_S = 1.0

Answered = parameters_pb2.PullResponse | parameters_pb2.PushPullResponse


class ParametersServicer(parameters_pb2_grpc.ParametersServicer):
    """Moves values between the wire and the stores of a table."""

    def __init__(self, table: StoreTable, meter: Meter) -> None:
        self._table = table
        self._meter = meter

    def Initialize(
        self, request_iterator: Iterator[parameters_pb2.InitializeRequest], context: ServicerContext
    ) -> parameters_pb2.InitializeResponse:
        """Give a store its first values."""
        # At the end, when its messages are freed too: so many at once do not come again where memory is shared.
        context.add_callback(give_back_freed_memory)
        first = first_of(request_iterator)
        store = self._table.get(StoreName.parse(first.store, field="store"))
        store.config.fence(first.epoch)
        store.check_serves()
        self._meter.admit(store.config)
        layout, tables = layout_from_proto(first.tensors), tables_from_proto(first.tables)
        store.check_model(layout, tables)
        if store.published is None:
            self._table.reserve_bytes(store, store.needed_bytes(layout))
            values = passing_memory(length(store.held(layout)))
            received = receive(chain([first], request_iterator), [Piece(0, values)])
            self._meter.received(store.config, received)
            store.initialize(layout, values, tables)
        return parameters_pb2.InitializeResponse(version=_version(store))

    def Push(
        self, request_iterator: Iterator[parameters_pb2.PushRequest], context: ServicerContext
    ) -> parameters_pb2.PushResponse:
        """Take a gradient."""
        first = first_of(request_iterator)
        return self.pushed(first.store, first.header, streamed(first, request_iterator))

    def Pull(
        self, request: parameters_pb2.PullRequest, context: ServicerContext
    ) -> Iterator[parameters_pb2.PullResponse]:
        """Send values."""
        response, store, published = self.pulled(request, context)
        with closing(published.readers):
            store.tables.check_dense(request.tensors)
            if response.not_modified:
                yield response
                return
            pieces, encoding = _pieces(store, published, request), _encoding(store, request)
            self.count_sent(store, response, carried_bytes(pieces, encoding))
            yield from carry(response, pieces, encoding)

    def PushPull(
        self, request_iterator: Iterator[parameters_pb2.PushPullRequest], context: ServicerContext
    ) -> Iterator[parameters_pb2.PushPullResponse]:
        """Take a gradient, then send the values that hold it."""
        first = first_of(request_iterator)
        bring = streamed(first, request_iterator)
        response, store, published = self.push_pulled(first.store, first.header, bring, context)
        with closing(published.readers):
            pieces, encoding = [Piece(0, published.values)], store.config.compression.values
            self.count_sent(store, response, carried_bytes(pieces, encoding))
            yield from carry(response, pieces, encoding)

    def pulled(
        self, request: parameters_pb2.PullRequest, context: ServicerContext
    ) -> tuple[parameters_pb2.PullResponse, LiveStore, Published]:
        """Return what Pull answers, without values, and the values, which the caller reads; it closes their readers."""
        store = self._table.get(StoreName.parse(request.store, field="store"))
        if request.epoch:  # 0: a reader outside the run
            store.config.fence(request.epoch)
        store.check_serves()
        store.check_map(request.map_epoch)
        self._meter.admit(store.config)
        step = request.step if request.HasField("step") else None
        before = store.incarnation
        published = self._found(store, request, step, context)
        incarnation = _unless_replaced(store, before)
        response = parameters_pb2.PullResponse(
            version=published.version,
            staleness=published.staleness(step),
            not_modified=request.HasField("known") and _is_known(request.known, published, incarnation),
            incarnation=incarnation,
            term=store.term,
        )
        if response.not_modified:
            self._meter.not_modified(store.config)
        return response, store, published

    def _found(
        self,
        store: LiveStore,
        request: parameters_pb2.PullRequest,
        step: int | None,
        context: ServicerContext,
    ) -> Published:
        """Return the values a pull asks for, once they are there."""
        generation = request.member.generation if request.HasField("member") else None
        if generation is not None and request.member.HasField("version"):
            return store.exactly(request.member.version, generation)
        need = store.need_for(step, request.pushed_step if request.HasField("pushed_step") else None)
        need = replace(need, version=max(need.version, request.min_version))
        return self._wait(store, need, context, generation)

    def pushed(
        self, name: str, header: parameters_pb2.PushHeader, bring: Bring
    ) -> parameters_pb2.PushResponse:
        """Take a gradient; return what Push answers."""
        store = self._fenced(name, header.epoch, header.map_epoch)
        self._meter.admit(store.config)
        taken = self._take(store, header, bring)
        return parameters_pb2.PushResponse(duplicate=not taken, version=_version(store), term=store.term)

    def push_pulled(
        self, name: str, header: parameters_pb2.PushHeader, bring: Bring, context: ServicerContext
    ) -> tuple[parameters_pb2.PushPullResponse, LiveStore, Published]:
        """Take a gradient; return what PushPull answers, without values, and the values, as `pulled` does."""
        store = self._fenced(name, header.epoch, header.map_epoch)
        self._meter.admit(store.config)
        taken = self._take(store, header, bring)
        step = header.step + 1
        before = store.incarnation
        published = self._wait(store, store.need_for(step), context, header.generation)
        response = parameters_pb2.PushPullResponse(
            version=published.version,
            duplicate=not taken,
            staleness=published.staleness(step),
            next_step=store.next_step(header.worker, published),
            incarnation=_unless_replaced(store, before),
            term=store.term,
        )
        return response, store, published

    def count_sent(self, store: LiveStore, response: Answered, size_bytes: int) -> None:
        """Count an answer with values."""
        self._meter.sent(store.config, response.staleness, size_bytes)

    def GetStepNorm(
        self, request: parameters_pb2.GetStepNormRequest, context: ServicerContext
    ) -> parameters_pb2.GetStepNormResponse:
        """Return this shard's part of a step's norm."""
        store, norms = self._joint(request)
        context.add_callback(store.news.wake)
        generation = request.generation if request.HasField("generation") else None
        bound_s = wait_bound_s(context.time_remaining())
        squared = wait_for_norms(store, request.step, norms, bound_s, context.is_active, generation)
        if squared is None:
            return parameters_pb2.GetStepNormResponse(finished=True)
        if norms is Norms.GRADIENT:
            return parameters_pb2.GetStepNormResponse(squared_norm=squared[0])
        return parameters_pb2.GetStepNormResponse(tensor_norms=squared)

    def FinishStep(
        self, request: parameters_pb2.FinishStepRequest, context: ServicerContext
    ) -> parameters_pb2.FinishStepResponse:
        """Let a step go on with norms of the whole model."""
        store, norms = self._joint(request)
        squared = [request.squared_norm] if norms is Norms.GRADIENT else request.tensor_norms
        store.finish_step(StepNorms(request.step, norms, tuple(squared)))
        return parameters_pb2.FinishStepResponse(version=_version(store))

    def _joint(
        self, request: parameters_pb2.GetStepNormRequest | parameters_pb2.FinishStepRequest
    ) -> tuple[LiveStore, Norms]:
        store, norms = (
            self._fenced(request.store, request.epoch, request.map_epoch),
            norms_from_proto(request.norms),
        )
        if norms not in store.joint_norms:
            raise FailedPrecondition(
                f"{request.store} applies complete steps without norms of {norms.value}; pull instead"
            )
        return store, norms

    def _fenced(self, name: str, epoch: int, map_epoch: int) -> LiveStore:
        store = self._table.get(StoreName.parse(name, field="store"))
        store.config.fence(epoch)
        store.check_serves()
        store.check_map(map_epoch)
        return store

    def _take(self, store: LiveStore, header: parameters_pb2.PushHeader, bring: Bring) -> bool:
        """Receive a gradient and push it; return False if it was taken before."""
        duplicate = store.is_duplicate(header.worker, header.step, header.generation)
        if not duplicate:
            covers = covered(store, header)
            assert store.published is not None, "`is_duplicate` has looked"
            size = store.published.values.size if covers is None else length(covers)
            brought = bring(store, size)
            self._meter.received(store.config, brought.size_bytes)
            push = Push(
                header.worker,
                header.step,
                header.samples,
                brought.gradient,
                header.generation,
                covers,
                brought.loan,
                finite=brought.finite,
            )
            duplicate = not store.push(push)
        self._meter.pushed(store.config, duplicate=duplicate)
        return not duplicate

    def _wait(
        self, store: LiveStore, need: Need, context: ServicerContext, generation: int | None
    ) -> Published:
        context.add_callback(store.news.wake)  # a caller that goes away leaves no thread behind
        began = time.monotonic()
        bound_s = wait_bound_s(context.time_remaining())
        published = wait_for_values(store, need, bound_s, context.is_active, generation)
        self._meter.waited(time.monotonic() - began)
        return published


def wait_bound_s(remaining_s: float) -> float:
    """Return the seconds a call waits for its version: until shortly before its deadline.

    Args:
        remaining_s: Until the deadline; for a call without one, gRPC says more than any lock can wait.
    """
    bound_s = _LONGEST_WAIT_S if remaining_s > threading.TIMEOUT_MAX else remaining_s
    return bound_s - min(_LAST_WORDS_S, bound_s / 4)


def _version(store: LiveStore) -> int:
    return store.published.version if store.published else 0


def _encoding(store: LiveStore, request: parameters_pb2.PullRequest) -> Encoding:
    """Say how the values that a pull asked for are encoded."""
    if not request.encoding:
        return store.config.compression.values
    encoding = encoding_from_proto(request.encoding, "encoding")
    if encoding is Encoding.SPARSE:
        raise InvalidArgument("encoding is ENCODING_SPARSE, which is for gradients", field="encoding")
    return encoding


def _unless_replaced(store: LiveStore, incarnation: int) -> int:
    """Return it; 0 if the values were replaced since it was looked up, and nobody knows which were taken."""
    return incarnation if incarnation == store.incarnation else 0


def _is_known(known: parameters_pb2.KnownValues, published: Published, incarnation: int) -> bool:
    if known.incarnation:
        return (known.incarnation, known.version) == (incarnation, published.version)
    return published.version <= known.version


def _pieces(store: LiveStore, published: Published, request: parameters_pb2.PullRequest) -> list[Piece]:
    """Cut out what a pull asked for: the parts of the tensors or ranges that are held here."""
    assert store.layout is not None
    ranges = [range(part.start, part.stop) for part in request.ranges]
    places = shared(store.layout.select(request.tensors, ranges), store.held(store.layout))
    return [
        Piece(place.second, published.values[place.second : place.second + len(place.values)])
        for place in places
    ]
