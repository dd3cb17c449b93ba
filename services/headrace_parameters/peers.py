"""Other processes of the parameter service, as one of them talks to them."""

import queue
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import grpc

from headrace.errors import Internal
from headrace.names import StoreName
from headrace.parameters.keys import Arcs, spans_of
from headrace.parameters.recoding import resharding_stub
from headrace.parameters.v1 import resharding_pb2, stores_pb2, stores_pb2_grpc
from headrace.parameters.v1.shard_map_pb2 import ArcRange, ValueRange
from headrace.parameters.wire import receive
from headrace.rpc.channel import open_channel
from headrace_parameters.assembly import Assembly
from headrace_parameters.core.rows.part import TablePart
from headrace_parameters.moving_rows import received
from headrace_parameters.moving_wire import facts_from_proto, rows_to_proto

_ASK_S = 5.0  # a question that is answered at once


class Steps(Protocol):
    """The stream by which a coordinator leads one participant."""

    def take(self, request: resharding_pb2.ParticipateRequest) -> resharding_pb2.ParticipateResponse:
        """Let the participant take a step, and return what it says when it is done."""


class RunningSteps:
    """A running Participate call."""

    def __init__(
        self,
        call: Callable[
            [Iterator[resharding_pb2.ParticipateRequest]], Iterator[resharding_pb2.ParticipateResponse]
        ],
    ) -> None:
        self._requests: queue.SimpleQueue[resharding_pb2.ParticipateRequest | None] = queue.SimpleQueue()
        self._responses = call(iter(self._requests.get, None))

    def take(self, request: resharding_pb2.ParticipateRequest) -> resharding_pb2.ParticipateResponse:
        """Send a step and wait for its answer."""
        self._requests.put(request)
        answer = next(self._responses, None)
        if answer is None:
            raise Internal("the shard ended its part in a resharding without an error; its log may say why")
        return answer

    def end(self) -> None:
        """Send no more."""
        self._requests.put(None)


class Peers:
    """Opens a channel for each conversation: there are few, and they end."""

    def __init__(self, open_: Callable[[str], grpc.Channel] = open_channel) -> None:
        self._open = open_

    def get(self, address: str, name: str) -> stores_pb2.Store:
        """Ask what a process holds of a store; NotFound if nothing."""
        with self._open(address) as channel:
            stub = stores_pb2_grpc.StoresStub(channel)
            return stub.GetStore(stores_pb2.GetStoreRequest(name=name), timeout=_ASK_S)

    def create(self, address: str, request: stores_pb2.CreateStoreRequest) -> stores_pb2.Store:
        """Make a process hold a shard."""
        with self._open(address) as channel:
            return stores_pb2_grpc.StoresStub(channel).CreateStore(request, timeout=_ASK_S)

    @contextmanager
    def participating(self, address: str, timeout_s: float) -> Iterator[Steps]:
        """Lead a participant for the time of a `with`; its stream ends with it."""
        with self._open(address) as channel:
            stub = resharding_stub(channel)
            steps = RunningSteps(lambda requests: stub.Participate(requests, timeout=timeout_s))
            try:
                yield steps
            finally:
                steps.end()

    def fetch_rows(
        self, source: str, request: resharding_pb2.FetchRowsRequest, timeout_s: float
    ) -> dict[str, TablePart]:
        """Return parts of the tables of another shard."""
        with self._open(source) as channel:
            return received(resharding_stub(channel).FetchRows(request, timeout=timeout_s))

    def fetch(
        self,
        source: str,
        store: StoreName,
        epoch: int,
        map_epoch: int,
        ranges: Sequence[range],
        workers: Collection[int],
        assembly: Assembly,
        timeout_s: float,
    ) -> None:
        """Bring parts of another shard to their places."""
        request = resharding_pb2.FetchRequest(
            store=str(store),
            epoch=epoch,
            map_epoch=map_epoch,
            ranges=[ValueRange(start=part.start, stop=part.stop) for part in ranges],
            workers=sorted(workers),
        )
        with self._open(source) as channel:
            responses = resharding_stub(channel).Fetch(request, timeout=timeout_s)
            first = next(responses, None)
            if first is None:
                raise Internal(f"{source} sent nothing of {store}; its log may say why")
            places = assembly.places(facts_from_proto(first.facts), ranges)
            receive(chain([first], responses), places)


@dataclass(frozen=True)
class PeerSources:
    """The shards of a store that others take values and rows over from, in one resharding.

    Args:
        map_epoch: Of the next map.
        timeout_s: For each conversation.
    """

    peers: Peers
    store: StoreName
    epoch: int
    map_epoch: int
    timeout_s: float

    def values(
        self, source: str, ranges: Sequence[range], workers: Collection[int], assembly: Assembly
    ) -> None:
        """Write ranges to their places in `assembly`."""
        name, epochs = self.store, (self.epoch, self.map_epoch)
        self.peers.fetch(source, name, *epochs, ranges, workers, assembly, self.timeout_s)

    def rows(
        self, source: str, arcs: Arcs, workers: Mapping[str, Collection[int]]
    ) -> Mapping[str, TablePart]:
        """Return what of all tables belongs to some arcs."""
        spans = [(start, stop) for start, stop, meant in spans_of(arcs.tolist()) if meant]
        request = resharding_pb2.FetchRowsRequest(
            store=str(self.store),
            epoch=self.epoch,
            map_epoch=self.map_epoch,
            arcs=[ArcRange(start=start, stop=stop) for start, stop in spans],
            pending=rows_to_proto(workers),
        )
        return self.peers.fetch_rows(source, request, self.timeout_s)
