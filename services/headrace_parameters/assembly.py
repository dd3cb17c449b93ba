"""Putting a shard together from parts of others."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.ranges import length, shared
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.wire import Piece
from headrace_parameters.core.exchange import Push
from headrace_parameters.core.part import GRADIENT, OPTIMIZER, VALUES, Facts, Part
from headrace_parameters.core.state import ShardState


def selected(part: Part, held: Sequence[range], ranges: Sequence[range]) -> Iterator[Piece]:
    """Cut `ranges` out of the vectors of a shard that holds `held`; each vector follows the one before."""
    size = length(ranges)
    for index, name in enumerate(part.facts.vectors):
        for place in shared(ranges, held):
            values = part.vectors[name][place.second : place.second + len(place.values)]
            yield Piece(index * size + place.first, values)


class Assembly:
    """A shard that is being put together.

    Args:
        shard_map: The one it will go by.
        shard: Its id there.
    """

    def __init__(self, layout: FlatLayout, shard_map: ShardMap, shard: int) -> None:
        self._layout = layout
        self._map = shard_map
        self._shard = shard
        self._facts: Facts | None = None
        self._vectors: dict[str, Floats] = {}

    def places(self, facts: Facts, ranges: Sequence[range]) -> list[Piece]:
        """Say where `ranges` of the vectors that the facts name belong, in the order of `selected`.

        Raises:
            FailedPrecondition: Parts with these facts do not fit those that came before.
        """
        self._facts = self._facts.with_those_of(facts) if self._facts else facts
        held = self._map.held(self._shard)
        for name in facts.vectors:
            if name not in self._vectors:
                self._vectors[name] = np.empty(length(held), np.float32)
        whole = Part(facts, self._vectors)
        return list(selected(whole, held, ranges))

    def copy(self, part: Part, held: Sequence[range]) -> None:
        """Take what a shard of this process, that holds `held`, has of it."""
        ranges = [place.values for place in shared(held, self._map.held(self._shard))]
        for place, piece in zip(self.places(part.facts, ranges), selected(part, held, ranges), strict=True):
            place.values[...] = piece.values

    def finished(self, optimizer: str) -> tuple[ShardState, Mapping[int, Push]]:
        """Return the shard's state, and the gradients of the step that is not complete, once all parts are in place.

        Args:
            optimizer: The kind.
        """
        facts = self._facts
        assert facts is not None, "a shard is put together from one part at least"
        vectors = {name: torch.from_numpy(vector) for name, vector in self._vectors.items()}
        state = {name: vector for name, vector in vectors.items() if name.startswith(OPTIMIZER)}
        state |= {OPTIMIZER + name: torch.tensor(number) for name, number in facts.scalars.items()}
        found = ShardState(
            layout=self._layout,
            shard_index=self._shard,
            map=self._map,
            optimizer=optimizer,
            version=facts.version,
            last_steps=facts.last_steps,
            members=facts.members,
            values=vectors[VALUES],
            optimizer_state={name.removeprefix(OPTIMIZER): value for name, value in state.items()},
        )
        gradients = {
            worker: Push(
                worker, facts.version, samples, self._vectors[f"{GRADIENT}{worker}"], facts.members.generation
            )
            for worker, samples in facts.samples.items()
        }
        return found, gradients
