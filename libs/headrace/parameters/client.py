"""The client of the parameter service: one store over all its shards, and the stores of one process.

with ShardedStore(["127.0.0.1:8473", "127.0.0.1:8483"], "projects/default/stores/run", epoch=1, worker=0) as store:
    store.initialize(layout, values)
    for step in range(100):
        values = store.push_pull(step, gradient, samples=32).values
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import grpc

from headrace.parameters.answers import Mark, Place, Pulled, Snapshot, summed_up
from headrace.parameters.encoded import compression_from_proto
from headrace.parameters.finishing import Finisher
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.lending import Lender, Loan
from headrace.parameters.membership import Membership
from headrace.parameters.placement import Placement
from headrace.parameters.ranges import length
from headrace.parameters.route import Route
from headrace.parameters.saving import save
from headrace.parameters.shard import Lent, ShardClient
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.stores import StoresClient
from headrace.parameters.together import Together
from headrace.parameters.vectors import checked, output
from headrace.parameters.wanted import Wanted
from headrace.rpc.channel import open_channel

__all__ = ["Place", "Pulled", "ShardedStore", "Snapshot", "StoresClient"]


class ShardedStore:
    """All shards of one store, as one worker uses them.

    Every method talks to all shards at once and repeats what a lost connection interrupted until `timeout_s` has passed, at the replica of a
    shard if that has taken over; each raises what `headrace.errors` has for what the service answers. Methods may be called from any thread; they take turns.

    Args:
        shards: Addresses of the shards, or channels (which stay the caller's), shard 0 first.
        store: `projects/{project}/stores/{store}`.
        epoch: The run's; a shard with a greater one refuses everything with StaleEpoch.
        worker: One of the store's workers, numbered from 0.
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
        addresses = [shard if isinstance(shard, str) else "" for shard in shards]
        channels = [open_channel(shard) if isinstance(shard, str) else shard for shard in shards]
        self._shards = [
            ShardClient(channel, store, epoch=epoch, worker=worker, shared_memory=shared_memory)
            for channel in channels
        ]
        self._routes = [
            Route(shard, channel, address)
            for shard, channel, address in zip(self._shards, channels, addresses, strict=True)
        ]
        self._lender = Lender(enabled=shared_memory)
        self._together = Together(len(shards), timeout_s, self._routes)
        self._membership = Membership(self._shards, self._together, worker)
        self._placed: Placement | None = None
        self._pushed: int | None = None  # the last step whose gradient all shards have
        self._finisher = Finisher(self._together, self._shards)

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
        for route in self._routes:
            route.close()

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
        """The store's tensors.

        Raises:
            FailedPrecondition: Nobody has initialized the store yet.
        """
        return self._placement().layout

    def _placement(self) -> Placement:
        """Say where the store's values are; asked for once."""
        if self._placed is None:
            stores = self._together.do(lambda operation, index: self._shards[index].get(operation))
            self._placed = Placement.of(stores)
            for shard, store in zip(self._shards, stores, strict=True):
                shard.follow(self._placed.map.epoch, compression_from_proto(store.compression))
        return self._placed

    def initialize(self, layout: FlatLayout, values: Floats) -> int:
        """Give the store its tensors and first values, unless it has some.

        Args:
            layout: The whole model's.
            values: Shape (N,).
        Returns:
            The version the store has now: 0 if it was new. Above 0, pull before you go on.
        """
        first = Placement(layout, ShardMap.first(layout.size, len(self._shards)))
        parts = first.pieces(checked(layout, values))
        versions = self._together.do(
            lambda operation, index: self._shards[index].initialize(operation, layout, parts[index])
        )
        self._placed = None  # a store that has values already may have another map
        return min(versions)

    def take_place(self, out: Floats | None = None) -> Place:
        """Wait until this worker is a member of its run, and receive the values that the members begin with.

        To be called before the first step of a run whose members may change, and again whenever a call raises MembersChanged, as each
        then does: the step is to be computed again, with the new place's share of its batch.

        Args:
            out: As for `pull`.
        Raises:
            StaleEpoch: This worker was a member and is none any more.
            Aborted, DeadlineExceeded: As `Membership.take_place`.
        """
        placement = self._placement()
        values = output(placement.layout.size, out)
        pieces = placement.pieces(values)
        return self._membership.take_place(
            lambda version: self._together.do(
                lambda operation, index: self._shards[index].pull_as_member(operation, version, pieces[index])
            )
        )

    def push(self, step: int, gradient: Floats, samples: float) -> int:
        """Send a gradient, without waiting until it is applied.

        Args:
            step: BSP: the store's version. SSP, ASYNC: above this worker's last; SSP: within the bound.
            gradient: Shape (N,), the mean over `samples` samples.
            samples: The gradient's weight in the step's mean.
        Returns:
            The store's version now.
        """
        placement = self._placement()
        flat = checked(placement.layout, gradient)
        parts = placement.pieces(flat)
        with self._lender.lending(flat) as loan:
            versions = self._together.do(
                lambda operation, index: self._shards[index].push(
                    operation, step, parts[index], samples, _lent(loan, placement, index)
                )
            )
        self._pushed = step
        return min(versions)

    def pull(
        self,
        min_version: int = 0,
        names: Sequence[str] = (),
        out: Floats | None = None,
        step: int | None = None,
        exact: bool = False,
        *,
        ranges: Sequence[range] = (),
        newer_than: Pulled | None = None,
        own_writes: bool = False,
    ) -> Pulled:
        """Receive the values, once every shard has at least `min_version`.

        Args:
            min_version: The version to wait for.
            names: Tensors to receive, in the order of the layout; all without any.
            out: Where to put the values; a new vector if None. After an error it may hold a part of them.
            step: The step to compute with them; waits until the store's consistency lets it be.
            exact: As the shards have them, also from a store that sends values in fewer bits.
            ranges: Values of the flat vector to receive, ascending and apart, instead of tensors.
            newer_than: What a pull of the same values returned: only shards that have newer ones send theirs. `out`, which
                is its `values` if None, must hold the former values, and is brought up to date.
            own_writes: Wait until the values hold the last gradient that this client pushed (under BSP: that its step is applied).
        """
        placement = self._placement()
        chosen = placement.layout.select(names, ranges)
        values = output(length(chosen), newer_than.values if newer_than and out is None else out)
        wanted = Wanted(names, ranges, min_version, step, self._own_step(own_writes), exact)
        pieces, lengths = placement.selected(chosen, values), placement.lengths
        marks = self._marks(newer_than)
        received = self._together.do(
            lambda operation, index: self._shards[index].pull(
                operation, wanted, pieces[index], lengths[index], marks[index]
            )
        )
        return summed_up(received, values, placement.map.epoch)

    def _own_step(self, own_writes: bool) -> int | None:
        if not own_writes or self._pushed is None:
            return None
        if self._finisher.norms:
            self.finish_step(self._pushed)  # who has pushed may be the one who has to
        return self._pushed

    def _marks(self, known: Pulled | None) -> Sequence[Mark | None]:
        if known and known.map_epoch == self._placement().map.epoch:
            return known.marks
        return [None] * len(self._shards)

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats | None = None) -> Pulled:
        """Send a gradient and receive the values for the next step: `push`, then `pull`, in one round trip.

        In a store of several shards with clipping or LAMB `finish_step` comes in between, and each is a round trip of its own.
        """
        if self._finisher.norms:
            self.push(step, gradient, samples)
            self.finish_step(step)
            pulled = self.pull(step=step + 1, out=out)
            return replace(pulled, next_step=max(step + 1, pulled.version))
        placement = self._placement()
        flat = checked(placement.layout, gradient)
        values = output(flat.size, out)
        parts, places = placement.pieces(flat), placement.pieces(values)
        with self._lender.lending(flat) as loan:
            received = self._together.do(
                lambda operation, index: self._shards[index].push_pull(
                    operation, step, parts[index], samples, places[index], _lent(loan, placement, index)
                )
            )
        self._pushed = step
        return summed_up(received, values, placement.map.epoch)

    def finish_step(self, step: int) -> None:
        """Wait until all workers have pushed `step`, and let every shard apply it with norms over all shards.

        For stores of several shards with clipping or LAMB alone; any number of workers may do it for one step.
        """
        self._finisher.finish(step)

    def snapshot(self) -> Snapshot:
        """Save all shards in the registry, all of them after the same pushes; pushes wait meanwhile until the shards agree on these."""
        return save(self._shards, self._together)

    def finish_run(self) -> None:
        """End the run for all workers: whatever they do or wait for raises RunFinished."""
        self._together.do(lambda operation, index: self._shards[index].finish_run(operation))


def _lent(loan: Loan | None, placement: Placement, index: int) -> Lent | None:
    return (lambda: loan.lend(placement.parts()[index])) if loan else None
