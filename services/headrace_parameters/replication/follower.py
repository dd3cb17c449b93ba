"""A replica's end of the stream: takes records as they come, and says what it holds."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import structlog

from headrace.errors import (
    Cancelled,
    HeadraceError,
    InvalidArgument,
    ShapeMismatch,
    SharedMemoryUnavailable,
)
from headrace.parameters.segments import MappedSegment
from headrace.parameters.v1.replication_pb2 import Record, ReplicateRequest, ReplicateResponse
from headrace.parameters.v1.shared_memory_pb2 import Segment
from headrace_parameters.core.record import BadRecord, Sealed, UnknownKind
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.replication.bases import decode_base

MAPPED = 64  # segments of the primary; it has one for each gradient that is under way or waits for its step

log = structlog.get_logger(__name__)


class Follower:
    """One connection from the primary of a term.

    Args:
        first: What it began with.
        reserve: Keeps room for so many bytes of values and optimizer state, or raises QuotaExceeded.
        share: Whether to read payloads in the primary's memory, if it can be reached.
    """

    def __init__(
        self,
        store: ReplicatedStore,
        first: ReplicateRequest,
        reserve: Callable[[ReplicatedStore, int], None],
        *,
        share: bool,
    ) -> None:
        self._store = store
        self._replicated = store.replicated
        self._reserve = reserve
        self._term = first.term
        self._mapped: OrderedDict[bytes, MappedSegment] = OrderedDict()
        self._share = share
        self._shares_memory = self._can_map(first)
        self._failure: BaseException | None = None
        self._over = False
        self._begun: tuple[Record, bytearray] | None = None  # a record whose chunks come

    def answers(self, requests: Iterator[ReplicateRequest]) -> Iterator[ReplicateResponse]:
        """Take records in another thread; yield what is held, as soon as it is as safe as it must be.

        Raises:
            HeadraceError: Why a record could not be taken; nothing of it was.
        """
        changed = self._replicated.changed
        threading.Thread(target=self._take_all, args=(requests,), name="follower", daemon=True).start()
        answer = self._answer(first=True)
        while True:
            yield answer
            with changed:
                changed.wait_for(lambda: self._over or self._state() != _told(answer))  # noqa: B023
                if self._over and self._state() == _told(answer):
                    break
            answer = self._answer()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Answer nothing any more: nobody listens."""
        with self._replicated.changed:
            self._over = True
            self._replicated.changed.notify_all()

    def _answer(self, *, first: bool = False) -> ReplicateResponse:
        with self._replicated.changed:
            held, synced, finished = self._state()
        self._store.wait_until_logged()  # what is held was logged before it was
        # After `held` was read: the primary takes what is held and not named here for free.
        in_use = list(self._replicated.in_use)
        shares = first and self._shares_memory
        return ReplicateResponse(
            held=held, in_use=in_use, synced=synced, shares_memory=shares, finished=finished
        )

    def _state(self) -> tuple[int | None, bool, bool]:
        tenure = self._replicated.tenure
        return self._replicated.held, tenure.synced, tenure.finished

    def _take_all(self, requests: Iterator[ReplicateRequest]) -> None:
        try:
            for request in requests:
                self._take(request)
        except HeadraceError as error:
            self._failure = error
        except grpc.RpcError:
            pass  # the connection is gone, and its end says so
        except Exception as error:
            log.exception("follower_crashed", store=self._replicated.store)
            self._failure = error
        finally:
            self.close()

    def _take(self, request: ReplicateRequest) -> None:
        if request.HasField("record"):
            self._begin(request.record)
        chunk = request.chunk.values
        if chunk:
            self._go_on(request.chunk.offset, chunk)
        if request.finished:
            self._replicated.run_finished(self._term)
        if request.synced:
            self._replicated.caught_up(self._term)

    def _begin(self, record: Record) -> None:
        if record.HasField("shared"):
            if self._replicated.follows(self._term, record.number, base=False):
                self._follow(record, self._copied(record) if record.lent else self._lent(record))
            return
        self._begun = record, bytearray(record.size_bytes)
        if not record.size_bytes:
            self._complete()

    def _go_on(self, offset: int, chunk: bytes | memoryview) -> None:
        if self._begun is None or offset + len(chunk) > len(self._begun[1]):
            raise ShapeMismatch(f"{len(chunk)} bytes at offset {offset} belong to no record")
        _, payload = self._begun
        payload[offset : offset + len(chunk)] = chunk
        if offset + len(chunk) == len(payload):
            self._complete()

    def _complete(self) -> None:
        assert self._begun is not None
        (record, payload), self._begun = self._begun, None
        if record.base:
            state = decode_base(record.header, bytes(payload)) if payload else None
            if state:
                self._reserve(self._store, self._store.needed_bytes(state.layout))
            self._store.follow_base(self._term, record.number, state)
        else:
            self._follow(record, memoryview(payload))

    def _follow(self, record: Record, payload: memoryview) -> None:
        try:
            sealed = Sealed.received(
                record.header,
                payload,
                self._store.members.generation,
                summed=self._store.config.durability.logged,
            )
        except (BadRecord, UnknownKind) as error:
            raise InvalidArgument(f"record {record.number} of {self._replicated.store}: {error}") from error
        self._store.follow(self._term, record.number, sealed)

    def _copied(self, record: Record) -> memoryview:
        """Return a copy of a payload that a worker has lent: once it is held here, the worker may write to its own."""
        where, values = record.shared, self._store.memory_of_its_own(record.shared.count)
        if where.segment.nonce not in self._mapped:
            self._let_go()
        mapped = self._map(where.segment)
        values[:] = mapped.part(where)
        if not mapped.is_current(where):
            raise Cancelled(
                f"record {record.number} of {self._replicated.store} was taken back on its way; nothing was applied"
            )
        return values.view(np.uint8).data

    def _let_go(self) -> None:
        """Keep no memory of workers that the primary has let go of."""
        gone = [nonce for nonce, mapped in self._mapped.items() if not mapped.can_be_found()]
        for nonce in gone:
            del self._mapped[nonce]

    def _lent(self, record: Record) -> memoryview:
        """Return a payload where the primary has it."""
        where = record.shared
        mapped = self._map(where.segment)
        values = mapped.part(where)
        if not mapped.is_current(where):
            raise InvalidArgument(
                f"record {record.number} of {self._replicated.store} was overwritten on its way"
            )
        payload = values.view(np.uint8)
        # Whatever uses the payload, the shard or the log, refers to this array in the end.
        in_use = self._replicated.in_use
        in_use[record.number] = None
        weakref.finalize(payload, in_use.pop, record.number, None)
        return payload.data

    def _map(self, segment: Segment) -> MappedSegment:
        mapped = self._mapped.get(segment.nonce)
        if mapped is None:
            mapped = self._mapped[segment.nonce] = MappedSegment(segment, writable=True)
        self._mapped.move_to_end(segment.nonce)
        while len(self._mapped) > MAPPED:
            self._mapped.popitem(last=False)  # arrays of it keep it
        return mapped

    def _can_map(self, first: ReplicateRequest) -> bool:
        if not (self._share and first.HasField("probe")):
            return False
        try:
            MappedSegment(first.probe)
        except SharedMemoryUnavailable:
            return False
        return True


def _told(answer: ReplicateResponse) -> tuple[int | None, bool, bool]:
    return (answer.held if answer.HasField("held") else None), answer.synced, answer.finished
