"""A gradient that travels to the shards while it is still computed.

Each shard's `PushPull` is begun before there is a gradient, and chunks follow as they are computed, in whatever order that is. The shard takes the gradient when the
stream is whole, which `ShardedStore.push_pull` sees to: a stream that ends otherwise leaves nothing behind, and the same gradient goes whole then.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.parameters.begun_call import BegunCall
from headrace.parameters.finishing import awaited_norms
from headrace.parameters.known_shards import DenseShards
from headrace.parameters.layout import Floats
from headrace.parameters.placement import Placement
from headrace.parameters.ranges import shared
from headrace.parameters.wire import CHUNK_VALUES, Piece


@dataclass(frozen=True)
class Cut:
    """A chunk: `values` of the flat vector, which lie on shard `shard` from `offset` on."""

    shard: int
    offset: int
    values: range


def cuts_of(placement: Placement) -> list[Cut]:
    """Cut the flat vector into the chunks in which it travels, each to one shard, in the order of the vector."""
    cuts = [
        Cut(shard, place.second + at, place.values[at : at + CHUNK_VALUES])
        for shard, held in enumerate(placement.parts())
        for place in shared([range(placement.layout.size)], held)
        for at in range(0, len(place.values), CHUNK_VALUES)
    ]
    return sorted(cuts, key=lambda cut: cut.values.start)


class Early:
    """The gradient of one step on its way to those shards that take it by stream; `ShardedStore.begin_push_pull` makes it.

    Args:
        step, samples: Of the gradient.
        gradient: Shape (N,); nothing writes to what was said to be ready until the step is over.
        calls: One per shard; None: that shard is sent all of it later.
    """

    def __init__(
        self,
        shards: DenseShards,
        step: int,
        gradient: Floats,
        samples: float,
        calls: Sequence[BegunCall[Any] | None],
    ) -> None:
        self._step, self._samples = step, samples
        self._shards, self._gradient, self._calls = shards, gradient, list(calls)
        self._cuts = cuts_of(shards.placement)
        self._starts = [cut.values.start for cut in self._cuts]
        self._missing = [len(cut.values) for cut in self._cuts]
        self._unsent = [
            {number for number, cut in enumerate(self._cuts) if cut.shard == shard}
            for shard in range(len(self._calls))
        ]

    @property
    def share_sent(self) -> float:
        """Which part of the gradient gRPC has taken by now, 0 to 1."""
        return sum(call.sent for call in self._calls if call) / max(1, self._gradient.size)

    def ready(self, part: range) -> None:
        """Tell that these values of the gradient, one or more, will not change any more; each value once."""
        index = bisect_right(self._starts, part.start) - 1
        while index < len(self._cuts) and self._starts[index] < part.stop:
            cut = self._cuts[index].values
            self._missing[index] -= min(cut.stop, part.stop) - max(cut.start, part.start)
            # The last one waits for `call_of`: a shard may take a cancelled stream for one that has ended, and must then miss something.
            if not self._missing[index] and len(self._unsent[self._cuts[index].shard]) > 1:
                self._feed(index)
            index += 1

    def is_of(self, step: int, gradient: Floats, samples: float) -> bool:
        """Tell whether it is this gradient, in the same memory."""
        same = gradient.ctypes.data == self._gradient.ctypes.data and gradient.size == self._gradient.size
        return same and (step, samples) == (self._step, self._samples)

    def call_of(self, shards: DenseShards, index: int) -> BegunCall[Any] | None:
        """Return the call of a shard, once, when all of the gradient is there; None: there is none, and it is to be sent whole."""
        if shards is not self._shards or not (call := self._calls[index]):
            return None
        for number in sorted(self._unsent[index]):
            self._feed(number)
        self._calls[index] = None
        return call

    def cancel(self) -> None:
        """End what runs: the gradient is computed again, or not at all, or sent whole."""
        for call in self._calls:
            if call:
                call.cancel()
        self._calls = [None] * len(self._calls)

    def _feed(self, number: int) -> None:
        cut = self._cuts[number]
        self._unsent[cut.shard].discard(number)
        if call := self._calls[cut.shard]:
            call.feed(Piece(cut.offset, self._gradient[cut.values.start : cut.values.stop]))


def begin_early(
    shards: DenseShards, step: int, gradient: Floats, samples: float, timeout_s: float
) -> Early | None:
    """Begin the calls of a step; None if no shard takes a gradient in parts.

    Where norms over all shards come between them, it is a `Push`, and the values are pulled later.
    """
    pulls = not awaited_norms(shards)
    calls = [
        client.begin(step, samples, timeout_s, pulls=pulls) if length > CHUNK_VALUES else None
        for client, length in zip(shards.clients, shards.placement.lengths, strict=True)
    ]
    return Early(shards, step, gradient, samples, calls) if any(calls) else None
