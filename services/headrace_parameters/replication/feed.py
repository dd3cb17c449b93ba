"""The connection from a primary to its replica, in one term: a thread that begins it again whenever it breaks."""

import threading
from collections.abc import Iterator
from typing import Protocol

import grpc
import numpy as np
import structlog

from headrace.errors import Cancelled, HeadraceError, SharedMemoryUnavailable, StaleTerm
from headrace.parameters import codec
from headrace.parameters.recoding import replication_stub
from headrace.parameters.segments import OwnSegment
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import replication_pb2
from headrace.parameters.v1.replication_pb2 import ReplicateRequest
from headrace.rpc.channel import open_channel
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.outbox import Base, Item, Record
from headrace_parameters.core.tenure import Tenure
from headrace_parameters.gradient_segments import SegmentLoan
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.replication.bases import encode_base
from headrace_parameters.replication.replicated import Replicated

PAUSE_S = 0.2  # between two tries to reach the replica
CHUNK_BYTES = 1 << 20  # as values travel elsewhere

log = structlog.get_logger(__name__)


class Fed(Protocol):
    """What of a primary's store its feed needs."""

    config: StoreConfig

    @property
    def map(self) -> ShardMap | None:
        """Which shard holds which values; None before there are values."""

    def offer_base(self) -> None:
        """Give the replica the whole store if it waits for it, and no step is half done."""

    def stop_serving(self) -> None:
        """End whatever waits here, if another process is the primary."""

    def lose(self, number: int) -> None:
        """End: a worker wrote to the gradient of this record before the replica had it."""


class Feed:
    """Sends a replica what a `Replicated` has for it.

    Args:
        tenure: The term it is for, and the replica.
        lent: Memory of the payloads that a replica on this machine reads where they are.
    """

    def __init__(self, store: Fed, replicated: Replicated, tenure: Tenure, lent: PublishedMemory) -> None:
        self._store = store
        self._replicated = replicated
        self._term, self._address = tenure.term, tenure.replica
        self._lent = lent
        self._probe = _make_probe()
        self.shares_memory = False  # the replica reads memory of this machine, as far as it is known
        self._ended = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="replica-feed", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send nothing any more; returns at once."""
        with self._replicated.changed:  # what this one has to say is void from here on
            self._ended.set()
        call = self._call
        if call is not None:
            call.cancel()
        self._replicated.end()

    def _run(self) -> None:
        with open_channel(self._address) as channel:
            while not self._ended.is_set():
                try:
                    self._connect(channel)
                except StaleTerm as error:
                    log.warning("primary_deposed", store=self._replicated.store, why=error.message)
                    self._replicated.depose(int(error.metadata["term"]), self._address)
                    self._store.stop_serving()
                    return
                except HeadraceError as error:
                    self.shares_memory = False
                    with self._replicated.changed:
                        if not self._ended.is_set():
                            self._replicated.disconnected(self._term, error)
                self._ended.wait(PAUSE_S)

    def _connect(self, channel: grpc.Channel) -> None:
        connection = _Connection(self._store, self._replicated, self._lent, self._ended)
        stub = replication_stub(channel)
        call = self._call = stub.Replicate(connection.requests(self._first()))
        try:
            if self._ended.is_set():
                call.cancel()
            for number, response in enumerate(call):
                held = response.held if response.HasField("held") else None
                if number == 0:
                    if not self._connected(held):
                        return
                    self._store.offer_base()
                    self.shares_memory = response.shares_memory
                    connection.begin(held, shares_memory=response.shares_memory)
                self._replicated.confirmed(
                    self._term, held, response.in_use, synced=response.synced, finished=response.finished
                )
        finally:
            call.cancel()
            connection.end()

    def _connected(self, held: int | None) -> bool:
        with self._replicated.changed:
            return not self._ended.is_set() and self._replicated.connected(self._term, held)

    def _first(self) -> ReplicateRequest:
        config, shard_map = self._store.config, self._store.map
        probe = self._probe.describe() if self._probe else None
        return ReplicateRequest(
            store=str(config.name),
            epoch=config.epoch,
            term=self._term,
            probe=probe,
            map_epoch=shard_map.epoch if shard_map else 0,
        )


def _make_probe() -> OwnSegment | None:
    """Make some memory for the replica to try whether it can map memory of this process."""
    try:
        return OwnSegment(1)
    except SharedMemoryUnavailable:
        return None


class _Connection:
    """What goes out on one stream; gRPC reads it in a thread of its own."""

    def __init__(
        self, store: Fed, replicated: Replicated, lent: PublishedMemory, ended: threading.Event
    ) -> None:
        self._store = store
        self._replicated = replicated
        self._lent = lent
        self._ended = ended
        self._begun = self._over = False
        self._told: set[str] = set()
        self._held: int | None = None
        self._shares_memory = False

    def begin(self, held: int | None, *, shares_memory: bool) -> None:
        """Go on after what the replica holds."""
        with self._replicated.changed:
            self._held, self._shares_memory, self._begun = held, shares_memory, True
            self._replicated.changed.notify_all()

    def end(self) -> None:
        """Let go of the thread that reads."""
        with self._replicated.changed:
            self._over = True
            self._replicated.changed.notify_all()

    def requests(self, first: ReplicateRequest) -> Iterator[ReplicateRequest]:
        """Yield the first message, then every record as it comes, and once that the run is over and that the replica is synced."""
        yield first
        sent: Item | None = None
        while True:
            with self._replicated.changed:
                self._replicated.changed.wait_for(lambda: self._stops or self._has_more(sent))  # noqa: B023
                if self._stops:
                    return
                item, mark = self._next(sent), self._mark(sent)
                lost = isinstance(item, Record) and not item.holds
            if item is not None and lost:
                self._store.lose(item.number)
                return
            if item is not None:
                yield from _messages(item, self._lent if self._shares_memory else None)
                sent = item
            elif mark is not None:
                yield mark

    @property
    def _stops(self) -> bool:
        return self._over or self._ended.is_set()

    def _next(self, sent: Item | None) -> Item | None:
        return self._replicated.next_item(sent, self._held)

    def _has_more(self, sent: Item | None) -> bool:
        return self._begun and (self._next(sent) is not None or self._due(sent) is not None)

    def _due(self, sent: Item | None) -> str | None:
        """Return what the replica must be told that is in no record, once on each stream."""
        if self._replicated.tenure.finished and "finished" not in self._told:
            return "finished"
        synced = self._replicated.marker_is_due(sent, self._held)
        return "synced" if synced and "synced" not in self._told else None

    def _mark(self, sent: Item | None) -> ReplicateRequest | None:
        """Tell it, if there is no record to send first."""
        due = self._due(sent)
        if due is None or self._next(sent) is not None:
            return None
        self._told.add(due)
        return ReplicateRequest(finished=due == "finished", synced=due == "synced")


def _messages(item: Item, lent: PublishedMemory | None) -> Iterator[ReplicateRequest]:
    """Write a record: its payload where it lies, or in chunks."""
    if isinstance(item, Base):
        header, payload = encode_base(item.state) if item.state else (b"", b"")
        yield from _chunked(
            replication_pb2.Record(number=item.number, base=True, header=header), memoryview(payload)
        )
        return
    record = replication_pb2.Record(number=item.number, header=item.header)
    if lent is not None and isinstance(item.loan, SegmentLoan):
        record.shared.CopyFrom(item.loan.pass_on())
        record.lent = True
        yield ReplicateRequest(record=record)
        return
    try:
        if lent is None or item.payload.nbytes % 4:
            raise SharedMemoryUnavailable("it is not shared")
        record.shared.CopyFrom(lent.locate(np.frombuffer(item.payload, np.float32)))
    except SharedMemoryUnavailable:
        yield from _chunked(record, _own(item))
        return
    yield ReplicateRequest(record=record)


def _own(item: Record) -> memoryview:
    """Return a payload in memory of this process; Cancelled if its worker took it back, after which the outbox has another."""
    if item.loan is None:
        return item.payload
    copy = memoryview(bytes(item.payload))
    if not item.holds:
        raise Cancelled(f"the gradient of record {item.number} was taken back while it was sent")
    return copy


def _chunked(record: replication_pb2.Record, payload: memoryview) -> Iterator[ReplicateRequest]:
    record.size_bytes = payload.nbytes
    message = ReplicateRequest(record=record)
    if not payload.nbytes:
        yield message
    for start in range(0, payload.nbytes, CHUNK_BYTES):
        yield codec.carried(message, start, payload[start : start + CHUNK_BYTES])
        message = ReplicateRequest()
