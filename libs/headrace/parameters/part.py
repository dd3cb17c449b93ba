"""The part of a model that a push is for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.errors import DtypeMismatch, ShapeMismatch
from headrace.parameters.layout import Floats
from headrace.parameters.placement import Placement
from headrace.parameters.ranges import length
from headrace.parameters.v1 import parameters_pb2, shard_map_pb2
from headrace.parameters.wire import Piece


@dataclass(frozen=True)
class Part:
    """Tensors by name, or ranges of the flat vector; see `ShardedStore.push`."""

    names: Sequence[str]
    ranges: Sequence[range]

    def check(self, placement: Placement, gradient: Floats) -> Floats:
        """Return a gradient of the part, contiguous.

        Raises:
            InvalidArgument: There is no such part.
            DtypeMismatch, ShapeMismatch: The gradient is not float32, or has not as many values as the part.
        """
        expected = length(placement.layout.select(self.names, self.ranges))
        if gradient.dtype != np.float32:
            raise DtypeMismatch(f"a gradient of {gradient.dtype} was given; gradients are float32")
        if gradient.shape != (expected,):
            raise ShapeMismatch(
                f"a gradient of shape {list(gradient.shape)} was given; this part of the model has [{expected}]"
            )
        return np.ascontiguousarray(gradient)

    def places(self, placement: Placement) -> list[tuple[range, ...]]:
        """Say where in the part's gradient each shard's values are."""
        return placement.places(placement.layout.select(self.names, self.ranges))

    def to_proto(self) -> parameters_pb2.Coverage:
        """Write it, the same for all shards."""
        ranges = [shard_map_pb2.ValueRange(start=part.start, stop=part.stop) for part in self.ranges]
        return parameters_pb2.Coverage(tensors=self.names, ranges=ranges)


def pieces(places: Sequence[range], gradient: Floats) -> list[Piece]:
    """Cut out what one shard is sent: its values, counted from the first of them."""
    found, offset = [], 0
    for place in places:
        found.append(Piece(offset, gradient[place.start : place.stop]))
        offset += len(place)
    return found
