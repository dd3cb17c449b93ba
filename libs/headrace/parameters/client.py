"""The client of the parameter service: one store over all its shards, and the stores of one process.

with ShardedStore(["127.0.0.1:8473", "127.0.0.1:8483"], "projects/default/stores/run", epoch=1, worker=0) as store:
    store.initialize(layout, values)
    for step in range(100):
        values = store.push_pull(step, gradient, samples=32).values
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Self, TypeVar

import grpc
import numpy as np

from headrace.errors import Cancelled, DtypeMismatch, FailedPrecondition, ShapeMismatch
from headrace.parameters.answers import Pulled, Snapshot, summed_up
from headrace.parameters.layout import FlatLayout, Floats, intersect
from headrace.parameters.operation import Operation
from headrace.parameters.shard import ShardClient
from headrace.parameters.stores import StoresClient
from headrace.parameters.wire import Piece, layout_from_proto
from headrace.rpc.channel import open_channel

__all__ = ["Pulled", "ShardedStore", "Snapshot", "StoresClient"]

Result = TypeVar("Result")


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
    """

    def __init__(
        self,
        shards: Sequence[str | grpc.Channel],
        store: str,
        *,
        epoch: int,
        worker: int,
        timeout_s: float = 60.0,
    ) -> None:
        channels = [open_channel(shard) if isinstance(shard, str) else shard for shard in shards]
        self._own_channels = [
            channel for channel, shard in zip(channels, shards, strict=True) if isinstance(shard, str)
        ]
        self._shards = [ShardClient(channel, store, epoch=epoch, worker=worker) for channel in channels]
        self._threads = ThreadPoolExecutor(len(shards), thread_name_prefix="shard")
        self._timeout_s = timeout_s
        self._operation: Operation | None = None
        self._layout: FlatLayout | None = None
        self._clipping: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, which then raises Cancelled, and free the connections."""
        if self._operation:
            self._operation.stop()
        self._threads.shutdown()
        for channel in self._own_channels:
            channel.close()

    @property
    def layout(self) -> FlatLayout:
        """The store's tensors; asked for once.

        Raises:
            FailedPrecondition: Nobody has initialized the store yet.
        """
        if self._layout is None:
            store = self._on_all(lambda operation, index: self._shards[index].get(operation))[0]
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
        versions = self._on_all(
            lambda operation, index: self._shards[index].initialize(operation, layout, parts[index])
        )
        self._layout = layout
        return min(versions)

    def push(self, step: int, gradient: Floats, samples: float) -> int:
        """Send a gradient, without waiting until it is applied.

        Args:
            step: BSP: the store's version. SSP, ASYNC: above this worker's last; SSP: within the bound.
            gradient: Shape (N,), the mean over `samples` samples.
            samples: The gradient's weight in the step's mean.
        Returns:
            The store's version now.
        """
        parts = self._parts(self.layout, _checked(self.layout, gradient))
        return min(
            self._on_all(
                lambda operation, index: self._shards[index].push(operation, step, parts[index], samples)
            )
        )

    def pull(
        self,
        min_version: int = 0,
        names: Sequence[str] = (),
        out: Floats | None = None,
        step: int | None = None,
    ) -> Pulled:
        """Receive the values, once every shard has at least `min_version`.

        Args:
            min_version: The version to wait for.
            names: Tensors to receive, in the order of the layout; all without any.
            out: Where to put the values; a new vector if None. After an error it may hold a part of them.
            step: The step to compute with them; waits until the store's consistency lets it be.
        """
        ranges = self.layout.ranges(names)
        values = _output(sum(map(len, ranges)), out)
        pieces = self._pieces(ranges, values)
        received = self._on_all(
            lambda operation, index: self._shards[index].pull(
                operation, min_version, names, pieces[index], step
            )
        )
        return summed_up(received, values)

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats | None = None) -> Pulled:
        """Send a gradient and receive the values for the next step: `push`, then `pull`, in one round trip.

        In a store with clipping over several shards `finish_step` comes in between, and each is a round trip of its own.
        """
        layout = self.layout
        if self._clips:
            self.push(step, gradient, samples)
            self.finish_step(step)
            pulled = self.pull(step=step + 1, out=out)
            return replace(pulled, next_step=max(step + 1, pulled.version))
        parts = self._parts(layout, _checked(layout, gradient))
        values = _output(layout.size, out)
        places = self._parts(layout, values)
        received = self._on_all(
            lambda operation, index: self._shards[index].push_pull(
                operation, step, parts[index], samples, places[index]
            )
        )
        return summed_up(received, values)

    def finish_step(self, step: int) -> None:
        """Wait until all workers have pushed `step`, and let every shard apply it, clipped by the norm over all shards.

        For stores with clipping over several shards alone; any number of workers may do it for one step.
        """
        norms = self._on_all(lambda operation, index: self._shards[index].step_norm(operation, step))
        parts = [norm for norm in norms if norm is not None]
        if len(parts) == len(
            norms
        ):  # else a later step is complete somewhere, and this one applied everywhere
            total = sum(parts)
            self._on_all(lambda operation, index: self._shards[index].finish_step(operation, step, total))

    @property
    def _clips(self) -> bool:
        """Whether the store's steps wait for `finish_step`; asked for once."""
        if self._clipping is None:
            clipped = len(self._shards) > 1 and self._on_all(
                lambda operation, index: self._shards[index].get(operation).optimizer.maximum_gradient_norm
            )
            self._clipping = bool(clipped and any(clipped))
        return self._clipping

    def snapshot(self) -> Snapshot:
        """Save all shards in the registry; under BSP, call it while no worker is in the middle of a step."""
        saved = self._on_all(lambda operation, index: self._shards[index].snapshot(operation))
        return Snapshot(min(shard.version for shard in saved), tuple(shard.artifact for shard in saved))

    def _on_all(self, work: Callable[[Operation, int], Result]) -> list[Result]:
        """Do `work` for every shard index at once; the first failure stops the others and is raised."""
        operation = self._operation = Operation(self._timeout_s)
        futures = [
            self._threads.submit(operation.attempt, lambda index=index: work(operation, index))
            for index in range(len(self._shards))
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # On KeyboardInterrupt too: nothing of it goes on alone.
            if not all(_succeeded(future) for future in futures):
                operation.stop()
                wait(futures)
        return _results(futures)

    def _parts(self, layout: FlatLayout, flat: Floats) -> list[Floats]:
        count = len(self._shards)
        ranges = [layout.shard_range(index, count) for index in range(count)]
        return [flat[part.start : part.stop] for part in ranges]

    def _pieces(self, ranges: Sequence[range], values: Floats) -> list[list[Piece]]:
        """Say which part of `values`, that hold `ranges` one after the other, each shard sends, and at which offset of its own."""
        count, start = len(self._shards), 0
        pieces: list[list[Piece]] = []
        for held in (self.layout.shard_range(index, count) for index in range(count)):
            pieces.append([])
            for part in intersect(ranges, held):
                pieces[-1].append(Piece(part.start - held.start, values[start : start + len(part)]))
                start += len(part)
        return pieces


def _succeeded(future: Future[Result]) -> bool:
    return future.done() and not future.exception()


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    """Return what all found, or raise what failed first; a `Cancelled` only tells that another did."""
    failures = [error for error in (future.exception() for future in futures) if error]
    for error in sorted(failures, key=lambda failure: isinstance(failure, Cancelled)):
        raise error
    return [future.result() for future in futures]


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
