# length: the one object that a worker has of a store; what its methods do is elsewhere
"""The client of the parameter service: one store over all its shards, and the stores of one process.

with ShardedStore(["127.0.0.1:8473", "127.0.0.1:8483"], "projects/default/stores/run", epoch=1, worker=0) as store:
    store.initialize(layout, values)
    for step in range(100):
        values = store.push_pull(step, gradient, samples=32).values
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import grpc

from headrace.errors import NotFound, ShardMapChanged
from headrace.parameters.answers import Mark, Place, Pulled, Snapshot, summed_up
from headrace.parameters.early import Early, begin_early
from headrace.parameters.finishing import awaited_norms, finish
from headrace.parameters.known_shards import DenseShards, KnownShards, take_back
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.lending import Lender, Loan
from headrace.parameters.membership import Membership
from headrace.parameters.part import Part, pieces
from headrace.parameters.placement import Placement
from headrace.parameters.ranges import length
from headrace.parameters.route import Replicas
from headrace.parameters.saving import save
from headrace.parameters.shard import Lent, ShardClient
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.stores import StoresClient
from headrace.parameters.v1 import tables_pb2
from headrace.parameters.vectors import checked, output
from headrace.parameters.wanted import Wanted

__all__ = ["Place", "Pulled", "ShardedStore", "Snapshot", "StoresClient"]


class ShardedStore:
    """All shards of one store, as one worker uses them.

    Every method talks to all shards at once and repeats what a lost connection interrupted until `timeout_s` has passed, at the replica of a
    shard if that has taken over; each raises what `headrace.errors` has for what the service answers. Methods may be called from any thread; pushes take turns.

    Args:
        shards: Addresses of the shards, or channels (which stay the caller's), shard 0 first.
        store: `projects/{project}/stores/{store}`.
        epoch: The run's; a shard with a greater one refuses everything with StaleEpoch.
        worker: One of the store's workers, numbered from 0.
        timeout_s: Bound of every method. Under BSP `push_pull` waits for the slowest worker: allow for it.
        shared_memory: Exchange values through memory with shards of this machine; False: always by streams.
        replicas: Where the shards are beside their primaries, if that is known.
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
        replicas: Replicas = Replicas(),  # noqa: B008 - it never changes
    ) -> None:
        connect = partial(ShardClient, store=store, epoch=epoch, worker=worker, shared_memory=shared_memory)
        self._known = KnownShards(shards, connect, timeout_s, replicas)
        self._lender, self._part_lender = (Lender(enabled=shared_memory) for _ in range(2))
        self._membership = Membership(worker)
        self._closing = threading.Lock()
        self._pushed: int | None = None  # the last step whose gradient all shards have
        self._early: Early | None = None  # the gradient that is being computed, if it travels already

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, which then raises Cancelled, and free the connections. From any thread, and as often as you like."""
        with self._closing:
            self._known.close()
            if self._early:
                self._early.cancel()
            # Before the connections: by these, a gradient is taken back that a call has lent which ends now.
            nonces = [lender.close() for lender in (self._lender, self._part_lender)]
            for shard in self._known.all:
                shard.release(*nonces)
            self._known.close_channels()

    @property
    def transport(self) -> str:
        """How values travel, as of the last call: "shared memory" with all shards, else "stream"."""
        return "shared memory" if all(shard.shares_memory for shard in self._known.clients) else "stream"

    @property
    def why_stream(self) -> str:
        """Why the first shard that shares no memory does not; empty if all do, or nothing has travelled yet."""
        return next((shard.why_not_shared for shard in self._known.clients if shard.why_not_shared), "")

    def gradient_memory(self, size: int) -> Floats:
        """Return zeros, shape (size,): a gradient that is computed in them needs one copy less to shards of this machine.

        They stay valid after `close`. There is one such memory: a call with another size replaces it.
        """
        return self._lender.memory(size)

    @property
    def layout(self) -> FlatLayout:
        """The store's tensors; FailedPrecondition if nobody has initialized it yet."""
        return self._known.current.placement.layout

    def initialize(self, layout: FlatLayout, values: Floats, tables: Sequence[tables_pb2.Table] = ()) -> int:
        """Give the store its tensors and first values, unless it has some.

        Args:
            layout, values: The whole model's; values have shape (N,).
            tables: The model's, beside those the store was made with; a store that has values must have them already.
        Returns:
            The version the store has now: 0 if it was new. Above 0, pull before you go on.
        """
        clients = self._known.clients
        first = Placement(layout, ShardMap.first(layout.size, len(clients)))
        parts = first.pieces(checked(layout, values))
        self._known.forget()  # a store that has values already may have another map
        try:
            versions = self._known.first(
                lambda operation, index: clients[index].initialize(operation, layout, parts[index], tables)
            )
        except (ShardMapChanged, NotFound):  # shards have joined or left since it was initialized
            versions = [store.version for store in self._known.current.stores if store.initialized]
        return min(versions)

    def take_place(self, out: Floats | None = None) -> Place:
        """Wait until this worker is a member of its run, and receive the values that the members begin with.

        To be called before the first step of a run whose members may change, and again whenever a call raises MembersChanged, as each
        then does: the step is to be computed again, with the new place's share of its batch. `out`: as for `pull`.

        Raises:
            StaleEpoch: This worker was a member and is none any more.
            Aborted, DeadlineExceeded: As `Membership.take_place`.
        """

        def work(shards: DenseShards) -> Place:
            placement = shards.placement
            wished = placement.pieces(output(placement.layout.size, out))
            return self._membership.take_place(
                shards,
                lambda version: shards.do(
                    lambda operation, index: shards.clients[index].pull_as_member(
                        operation, version, wished[index]
                    )
                ),
            )

        return self._known.by_map(work)

    def push(
        self,
        step: int,
        gradient: Floats,
        samples: float,
        *,
        names: Sequence[str] = (),
        ranges: Sequence[range] = (),
    ) -> int:
        """Send a gradient, without waiting until it is applied.

        Args:
            step: BSP: the store's version. SSP, ASYNC: above this worker's last; SSP: within the bound.
            gradient: Shape (N,), or as many as the part has: the mean over `samples` samples.
            samples: The gradient's weight in the step's mean.
            names, ranges: Tensors, or ascending ranges of the flat vector, that the gradient is for; nothing else is touched by it.
                The step's only push, whatever it covers.
        Returns:
            The store's version now.
        """
        part = Part(names, ranges) if names or ranges else None
        return self._known.by_map(lambda shards: self._push(shards, step, gradient, samples, part))

    def _push(
        self,
        shards: DenseShards,
        step: int,
        gradient: Floats,
        samples: float,
        part: Part | None = None,
        early: Early | None = None,
    ) -> int:
        placement = shards.placement
        if part:
            flat, places = part.check(placement, gradient), part.places(placement)
            parts, lender = [pieces(each, flat) for each in places], self._part_lender
        else:
            flat, places = checked(placement.layout, gradient), placement.parts()
            parts, lender = placement.pieces(flat), self._lender
        coverage = part.to_proto() if part else None
        with lender.lending(flat, partial(take_back, shards)) as loan:
            versions = shards.do(
                lambda operation, index: shards.clients[index].push(
                    operation,
                    step,
                    parts[index],
                    samples,
                    _lent(loan, places[index]),
                    coverage,
                    early.call_of(shards, index) if early else None,
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

        def work(shards: DenseShards) -> Pulled:
            placement = shards.placement
            chosen = placement.layout.select(names, ranges)
            values = output(length(chosen), newer_than.values if newer_than and out is None else out)
            wanted = Wanted(names, ranges, min_version, step, self._own_step(shards, own_writes), exact)
            wished, lengths = placement.selected(chosen, values), placement.lengths
            marks = _marks(shards, newer_than)
            received = shards.do(
                lambda operation, index: shards.clients[index].pull(
                    operation, wanted, wished[index], lengths[index], marks[index]
                )
            )
            return summed_up(received, values, placement.map.epoch)

        return self._known.by_map(work)

    def _own_step(self, shards: DenseShards, own_writes: bool) -> int | None:
        if not own_writes or self._pushed is None:
            return None
        if awaited_norms(shards):
            finish(shards, self._pushed)  # who has pushed may be the one who has to
        return self._pushed

    def begin_push_pull(self, step: int, gradient: Floats, samples: float) -> Early | None:
        """Begin the `push_pull` of a gradient that is still computed, in place: `ready` of what is returned sends the parts that are there.

        Nothing of it counts before `push_pull` of the same step, with the same array and samples, sends what is left. None: this store's gradients go whole: through memory, in one message, or by a filter
        that needs all of them (top-k, significance).
        """
        shards = self._known.current
        flat = checked(shards.placement.layout, gradient)
        with self._closing:
            self._known.check_open()
            if self._early:
                self._early.cancel()
            self._early = begin_early(shards, step, flat, samples, self._known.timeout_s)
            return self._early

    def _begun(self, step: int, gradient: Floats, samples: float) -> Early | None:
        """Return what was begun, once; cancel it if it is another gradient."""
        early, self._early = self._early, None
        if early and not early.is_of(step, gradient, samples):
            early.cancel()
            return None
        return early

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats | None = None) -> Pulled:
        """Send a gradient and receive the values for the next step: `push`, then `pull`, in one round trip.

        In a store of several shards with clipping or LAMB `finish_step` comes in between, and each is a round trip of its own.
        """
        early = self._begun(step, gradient, samples)

        def work(shards: DenseShards) -> Pulled:
            if awaited_norms(shards):
                self._push(shards, step, gradient, samples, early=early)
                finish(shards, step)
                pulled = self.pull(step=step + 1, out=out)
                return replace(pulled, next_step=max(step + 1, pulled.version))
            placement = shards.placement
            flat = checked(placement.layout, gradient)
            values = output(flat.size, out)
            parts, places, held = placement.pieces(flat), placement.pieces(values), placement.parts()
            with self._lender.lending(flat, partial(take_back, shards)) as loan:
                received = shards.do(
                    lambda operation, index: shards.clients[index].push_pull(
                        operation,
                        step,
                        parts[index],
                        samples,
                        places[index],
                        _lent(loan, held[index]),
                        early.call_of(shards, index) if early else None,
                    )
                )
            self._pushed = step
            return summed_up(received, values, placement.map.epoch)

        try:
            return self._known.by_map(work)
        finally:
            if early:
                early.cancel()  # what another shard's failure has left over

    def finish_step(self, step: int) -> None:
        """Wait until all workers have pushed `step`, and let every shard apply it with norms over all shards.

        For stores of several shards with clipping or LAMB alone; any number of workers may do it for one step.
        """
        self._known.by_map(lambda shards: finish(shards, step))

    def snapshot(self) -> Snapshot:
        """Save all shards in the registry, all of them after the same pushes; pushes wait meanwhile until the shards agree on these."""
        return self._known.by_map(save)

    def finish_run(self) -> None:
        """End the run for all workers: whatever they do or wait for raises RunFinished."""
        clients = self._known.clients  # a shard that has joined since takes no step without the others
        self._known.first(lambda operation, index: clients[index].finish_run(operation))


def _marks(shards: DenseShards, known: Pulled | None) -> Sequence[Mark | None]:
    if known and known.map_epoch == shards.placement.map.epoch:
        return known.marks
    return [None] * len(shards.clients)


def _lent(loan: Loan | None, places: Sequence[range]) -> Lent | None:
    return partial(loan.lend, places) if loan else None
