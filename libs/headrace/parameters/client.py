"""The client of the parameter service: one store over all its shards, and the stores of one process.

with ShardedStore(["127.0.0.1:8473", "127.0.0.1:8483"], "projects/default/stores/run", epoch=1, worker=0) as store:
    store.initialize(layout, values)
    for step in range(100):
        values = store.push_pull(step, gradient, samples=32).values
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import grpc
import numpy as np

from headrace.errors import DtypeMismatch, FailedPrecondition, ShapeMismatch
from headrace.parameters.layout import FlatLayout, Floats, intersect
from headrace.parameters.lending import Lender, Loan
from headrace.parameters.shard import Lent, ShardClient
from headrace.parameters.together import Together
from headrace.parameters.v1 import stores_pb2, stores_pb2_grpc
from headrace.parameters.wire import Piece, layout_from_proto
from headrace.rpc.channel import open_channel
from headrace.rpc.pages import pages


@dataclass(frozen=True)
class Pulled:
    """Values of a store.

    `version` is that of the values; under ASYNC the shards' versions differ, and it is the smallest.
    `values` has shape (N,), or as many as the tensors asked for have.
    """

    version: int
    values: Floats


@dataclass(frozen=True)
class Snapshot:
    """Where a store was saved: one artifact name per shard, in their order, and the (smallest) version in them."""

    version: int
    artifacts: tuple[str, ...]


class ShardedStore:
    """All shards of one store, as one worker uses them.

    Every method talks to all shards at once and repeats what a lost connection interrupted until `timeout_s` has passed; each
    raises what `headrace.errors` has for what the service answers. Methods may be called from any thread; they take turns.

    Args:
        shards: Addresses of the shards, or channels (which stay the caller's), shard 0 first.
        store: `projects/{project}/stores/{store}`.
        epoch: The run's; a shard with a greater one refuses everything with StaleEpoch.
        worker: 0 to the store's `worker_count` - 1.
        timeout_s: Bound of every method. Under BSP `push_pull` waits for the slowest worker: allow for it.
        shared_memory: Exchange values through memory with shards of this machine; False: always by streams.
    """

    def __init__(
        self,
        shards: Sequence[str | grpc.Channel],
        store: str,
        *,
        epoch: int,
        worker: int,
        timeout_s: float = 60.0,
        shared_memory: bool = True,
    ) -> None:
        channels = [open_channel(shard) if isinstance(shard, str) else shard for shard in shards]
        self._own_channels = [
            channel for channel, shard in zip(channels, shards, strict=True) if isinstance(shard, str)
        ]
        self._shards = [
            ShardClient(channel, store, epoch=epoch, worker=worker, shared_memory=shared_memory)
            for channel in channels
        ]
        self._lender = Lender(enabled=shared_memory)
        self._together = Together(len(shards), timeout_s)
        self._layout: FlatLayout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, which then raises Cancelled, and free the connections."""
        self._together.close()
        for shard in self._shards:
            shard.release(self._lender.nonce)
        self._lender.close()
        for channel in self._own_channels:
            channel.close()

    @property
    def transport(self) -> str:
        """How values travel, as of the last call: "shared memory" with all shards, else "stream"."""
        return "shared memory" if all(shard.shares_memory for shard in self._shards) else "stream"

    @property
    def why_stream(self) -> str:
        """Why the first shard that shares no memory does not; empty if all do, or nothing has travelled yet."""
        return next((shard.why_not_shared for shard in self._shards if shard.why_not_shared), "")

    def gradient_memory(self, size: int) -> Floats:
        """Return zeros, shape (size,): a gradient that is computed in them needs one copy less to shards of this machine.

        They stay valid after `close`. There is one such memory: a call with another size replaces it.
        """
        return self._lender.memory(size)

    @property
    def layout(self) -> FlatLayout:
        """The store's tensors; asked for once.

        Raises:
            FailedPrecondition: Nobody has initialized the store yet.
        """
        if self._layout is None:
            store = self._together.do(lambda operation, index: self._shards[index].get(operation))[0]
            if not store.initialized:
                raise FailedPrecondition(f"{store.name} has no values yet; call initialize first")
            self._layout = layout_from_proto(store.tensors)
        return self._layout

    def initialize(self, layout: FlatLayout, values: Floats) -> int:
        """Give the store its tensors and first values, unless it has some.

        Args:
            layout: The whole model's.
            values: Shape (N,).
        Returns:
            The version the store has now: 0 if it was new. Above 0, pull before you go on.
        """
        parts = self._parts(layout, _checked(layout, values))
        versions = self._together.do(
            lambda operation, index: self._shards[index].initialize(operation, layout, parts[index])
        )
        self._layout = layout
        return min(versions)

    def push(self, step: int, gradient: Floats, samples: float) -> int:
        """Send a gradient, without waiting until it is applied.

        Args:
            step: BSP: the store's version. ASYNC: above this worker's last.
            gradient: Shape (N,), the mean over `samples` samples.
            samples: The gradient's weight in the step's mean.
        Returns:
            The store's version now.
        """
        layout = self.layout
        flat = _checked(layout, gradient)
        parts = self._parts(layout, flat)
        with self._lender.lending(flat) as loan:
            return min(
                self._together.do(
                    lambda operation, index: self._shards[index].push(
                        operation, step, parts[index], samples, self._lent(loan, index)
                    )
                )
            )

    def pull(self, min_version: int = 0, names: Sequence[str] = (), out: Floats | None = None) -> Pulled:
        """Receive the values, once every shard has at least `min_version`.

        Args:
            min_version: The version to wait for.
            names: Tensors to receive, in the order of the layout; all without any.
            out: Where to put the values; a new vector if None. After an error it may hold a part of them.
        """
        ranges = self.layout.ranges(names)
        values = _output(sum(map(len, ranges)), out)
        pieces = self._pieces(ranges, values)
        versions = self._together.do(
            lambda operation, index: self._shards[index].pull(
                operation, min_version, names, pieces[index], len(self._held(self.layout, index))
            )
        )
        return Pulled(min(versions), values)

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats | None = None) -> Pulled:
        """Send a gradient and receive the values that hold it: `push`, then `pull`, in one round trip."""
        layout = self.layout
        flat = _checked(layout, gradient)
        parts = self._parts(layout, flat)
        values = _output(layout.size, out)
        places = self._parts(layout, values)
        with self._lender.lending(flat) as loan:
            versions = self._together.do(
                lambda operation, index: self._shards[index].push_pull(
                    operation, step, parts[index], samples, places[index], self._lent(loan, index)
                )
            )
        return Pulled(min(versions), values)

    def snapshot(self) -> Snapshot:
        """Save all shards in the registry; under BSP, call it while no worker is in the middle of a step."""
        saved = self._together.do(lambda operation, index: self._shards[index].snapshot(operation))
        return Snapshot(min(shard.version for shard in saved), tuple(shard.artifact for shard in saved))

    def _parts(self, layout: FlatLayout, flat: Floats) -> list[Floats]:
        ranges = [self._held(layout, index) for index in range(len(self._shards))]
        return [flat[part.start : part.stop] for part in ranges]

    def _held(self, layout: FlatLayout, index: int) -> range:
        return layout.shard_range(index, len(self._shards))

    def _lent(self, loan: Loan | None, index: int) -> Lent | None:
        held = self._held(self.layout, index)
        return (lambda: loan.lend(held)) if loan else None

    def _pieces(self, ranges: Sequence[range], values: Floats) -> list[list[Piece]]:
        """Say which part of `values`, that hold `ranges` one after the other, each shard sends, and at which offset of its own."""
        start = 0
        pieces: list[list[Piece]] = []
        for held in (self._held(self.layout, index) for index in range(len(self._shards))):
            pieces.append([])
            for part in intersect(ranges, held):
                pieces[-1].append(Piece(part.start - held.start, values[start : start + len(part)]))
                start += len(part)
        return pieces


def _checked(layout: FlatLayout, flat: Floats) -> Floats:
    if flat.dtype != np.float32:
        raise DtypeMismatch(f"a vector of {flat.dtype} was given; parameters are float32")
    layout.check(flat)
    return np.ascontiguousarray(flat)


def _output(size: int, out: Floats | None) -> Floats:
    if out is None:
        return np.empty(size, np.float32)
    if out.shape != (size,) or out.dtype != np.float32:
        raise ShapeMismatch(
            f"`out` has shape {list(out.shape)} of {out.dtype}; it must be [{size}] of float32"
        )
    return out


class StoresClient:
    """The stores that one parameter process holds: what a scheduler does with them.

    Args:
        address: The process's, or a channel to it, which stays the caller's.
        timeout_s: Bound of every call.
    """

    def __init__(self, address: str | grpc.Channel, *, timeout_s: float = 30.0) -> None:
        channel = open_channel(address) if isinstance(address, str) else address
        self._own_channel = channel if isinstance(address, str) else None
        self._stub = stores_pb2_grpc.StoresStub(channel)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the connection."""
        if self._own_channel:
            self._own_channel.close()

    def create(self, request: stores_pb2.CreateStoreRequest) -> stores_pb2.Store:
        """Make the process hold a shard; the same request again returns it as it is."""
        return self._stub.CreateStore(request, timeout=self._timeout_s)

    def get(self, name: str) -> stores_pb2.Store:
        """Return one store; NotFound if the process does not hold it."""
        return self._stub.GetStore(stores_pb2.GetStoreRequest(name=name), timeout=self._timeout_s)

    def list(self, project: str = "default") -> Iterator[stores_pb2.Store]:
        """Yield all stores of a project, by name."""
        request = stores_pb2.ListStoresRequest(parent=f"projects/{project}")
        for page in pages(partial(self._stub.ListStores, timeout=self._timeout_s), request):
            yield from page.stores

    def delete(self, name: str, *, epoch: int = 0) -> None:
        """Forget a store if its epoch is `epoch` or older; 0: whatever it is."""
        self._stub.DeleteStore(stores_pb2.DeleteStoreRequest(name=name, epoch=epoch), timeout=self._timeout_s)

    def restore(self, name: str, artifact: str, *, epoch: int) -> stores_pb2.Store:
        """Put a snapshot back."""
        request = stores_pb2.RestoreRequest(name=name, epoch=epoch, artifact=artifact)
        return self._stub.Restore(request, timeout=self._timeout_s)
