"""Memory for published values that processes of this machine can map."""

import weakref

import numpy as np

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.layout import Floats
from headrace.parameters.segments import OwnSegment
from headrace.parameters.v1.shared_memory_pb2 import SharedValues
from headrace_parameters.recycled import Recycled


class PublishedMemory:
    """Gives a store memory for one version after another, out of as few segments as it can: one, if each version overwrites the one
    before, else two, one to read and one to write; and one more for each older version that a stream still sends.

    A segment is used again when nothing in this process refers to its values any more. Processes that have mapped it are not asked:
    its sequence changes before its values do, and they look at it when they have copied them.
    """

    def __init__(self) -> None:
        self._segments = Recycled(OwnSegment)
        self._by_address: weakref.WeakValueDictionary[int, OwnSegment] = weakref.WeakValueDictionary()

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return self._segments.size_bytes

    def allocate(self, size: int) -> Floats:
        """Return memory for `size` values, shape (size,), with anything in it."""
        try:
            segment, values = self._segments.take(size)
        except SharedMemoryUnavailable:
            return np.empty(size, np.float32)
        segment.sequence += 1
        self._by_address[values.ctypes.data] = segment
        return values

    def rewrite(self, values: Floats) -> None:
        """Let readers elsewhere know that these, as `allocate` gave them, change from now on."""
        segment = self._by_address.get(values.ctypes.data)
        if segment is not None:
            segment.sequence += 1

    def locate(self, values: Floats) -> SharedValues:
        """Say where others find values that lie at the beginning of what `allocate` gave, and that are still in use here.

        Raises:
            SharedMemoryUnavailable: They are not in a segment.
        """
        segment = self._by_address.get(values.ctypes.data)
        if segment is None:
            raise SharedMemoryUnavailable("the service keeps its values in memory of its own")
        return SharedValues(segment=segment.describe(), sequence=segment.sequence, count=values.size)
