"""The calls of one worker to one shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import grpc

from headrace.errors import Internal
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.operation import Operation
from headrace.parameters.v1 import parameters_pb2, parameters_pb2_grpc, stores_pb2, stores_pb2_grpc
from headrace.parameters.wire import Piece, carry, layout_to_proto, receive

Response = TypeVar("Response", parameters_pb2.PullResponse, parameters_pb2.PushPullResponse)


@dataclass(frozen=True)
class Received:
    """What a shard says of the values it sent: their version, and how many steps the slowest worker is behind in them."""

    version: int
    staleness: int
    next_step: int = 0  # of a push_pull alone: the next step whose gradient the shard takes


class ShardClient:
    """One shard of a store, as one worker of one epoch sees it. Every method may be repeated without harm."""

    def __init__(self, channel: grpc.Channel, store: str, *, epoch: int, worker: int) -> None:
        self._parameters = parameters_pb2_grpc.ParametersStub(channel)
        self._stores = stores_pb2_grpc.StoresStub(channel)
        self._store = store
        self._epoch = epoch
        self._worker = worker

    def get(self, operation: Operation) -> stores_pb2.Store:
        """Ask what the shard is."""
        request = stores_pb2.GetStoreRequest(name=self._store)
        return operation.track(self._stores.GetStore.future(request, timeout=operation.remaining_s)).result()

    def initialize(self, operation: Operation, layout: FlatLayout, values: Floats) -> int:
        """Give the shard its first values, shape (shard's length,); return the version it has now."""
        first = parameters_pb2.InitializeRequest(
            store=self._store, epoch=self._epoch, tensors=layout_to_proto(layout)
        )
        requests = carry(first, [Piece(0, values)])
        call = self._parameters.Initialize.future(requests, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def push(self, operation: Operation, step: int, gradient: Floats, samples: float) -> int:
        """Send the shard's part of a gradient; return the version the shard has now."""
        first = parameters_pb2.PushRequest(store=self._store, header=self._header(step, samples))
        requests = carry(first, [Piece(0, gradient)])
        call = self._parameters.Push.future(requests, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def pull(
        self,
        operation: Operation,
        min_version: int,
        names: Sequence[str],
        pieces: Sequence[Piece],
        step: int | None = None,
    ) -> Received:
        """Receive values into `pieces`: of at least this version, and ones that `step` may be computed with."""
        request = parameters_pb2.PullRequest(
            store=self._store, epoch=self._epoch, min_version=min_version, tensors=names, step=step
        )
        call = operation.track(self._parameters.Pull(request, timeout=operation.remaining_s))
        first = _receive(call, pieces)
        return Received(first.version, first.staleness)

    def push_pull(
        self, operation: Operation, step: int, gradient: Floats, samples: float, values: Floats
    ) -> Received:
        """Send the shard's part of a gradient, receive the new values into `values`."""
        first = parameters_pb2.PushPullRequest(store=self._store, header=self._header(step, samples))
        requests = carry(first, [Piece(0, gradient)])
        call = operation.track(self._parameters.PushPull(requests, timeout=operation.remaining_s))
        first_answer = _receive(call, [Piece(0, values)])
        return Received(first_answer.version, first_answer.staleness, first_answer.next_step)

    def step_norm(self, operation: Operation, step: int) -> float | None:
        """Wait until the step is complete and return the squared norm of the shard's part; None: it is long applied."""
        request = parameters_pb2.GetStepNormRequest(store=self._store, epoch=self._epoch, step=step)
        call = self._parameters.GetStepNorm.future(request, timeout=operation.remaining_s)
        answer = operation.track(call).result()
        return None if answer.finished else answer.squared_norm

    def finish_step(self, operation: Operation, step: int, squared_norm: float) -> int:
        """Let the shard apply the step, clipped; return its version."""
        request = parameters_pb2.FinishStepRequest(
            store=self._store, epoch=self._epoch, step=step, squared_norm=squared_norm
        )
        call = self._parameters.FinishStep.future(request, timeout=operation.remaining_s)
        return operation.track(call).result().version

    def snapshot(self, operation: Operation) -> stores_pb2.SnapshotResponse:
        """Save the shard in the registry."""
        request = stores_pb2.SnapshotRequest(name=self._store, epoch=self._epoch)
        return operation.track(self._stores.Snapshot.future(request, timeout=operation.remaining_s)).result()

    def _header(self, step: int, samples: float) -> parameters_pb2.PushHeader:
        return parameters_pb2.PushHeader(worker=self._worker, epoch=self._epoch, step=step, samples=samples)


def _receive(responses: Iterator[Response], pieces: Sequence[Piece]) -> Response:
    """Receive values and return the first response."""
    first = next(responses, None)
    if first is None:
        raise Internal("the parameter service answered nothing at all; its log may say why")
    receive(chain([first], responses), pieces)
    return first
