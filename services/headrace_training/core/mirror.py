"""Vectors of a device that others know by memory of the host: the shards of a parameter store read and write that."""

from collections.abc import Iterator

import torch

from headrace.parameters.layout import Floats
from headrace_training.core.early_gradient import Early


class Mirror:
    """A vector of a device, and memory of the host: what one side wrote, the other is given.

    Args:
        vector: Shape (N,), float32, on a device.
        host: Shape (N,), which may be the very memory of `vector`: then nothing is ever copied.
    """

    def __init__(self, vector: torch.Tensor, host: Floats) -> None:
        self.host, self._vector = host, vector
        self._on_host = torch.from_numpy(host)
        self._same = vector.is_cpu and vector.data_ptr() == self._on_host.data_ptr()

    def fetch(self, part: range | None = None) -> None:
        """Bring values to the host, all or some; they are there when this returns."""
        place = slice(None) if part is None else slice(part.start, part.stop)
        if not self._same:
            self._on_host[place].copy_(self._vector[place])

    def put(self) -> None:
        """Give the device what the host has; what the device is asked for from now on computes with it."""
        if not self._same:
            self._vector.copy_(self._on_host, non_blocking=True)


class MirroredEarly:
    """An `Early` of the host that takes a gradient of a device: each part is copied when it is there."""

    def __init__(self, early: Early, gradient: Mirror) -> None:
        self._early, self._gradient = early, gradient
        self._fetched: list[range] = []

    @property
    def share_sent(self) -> float:
        """Which part of the gradient has left, 0 to 1."""
        return self._early.share_sent

    def ready(self, part: range) -> None:
        """Take these values."""
        self._gradient.fetch(part)
        self._fetched.append(part)
        self._early.ready(part)

    def cancel(self) -> None:
        """Forget what came: it was not all of it."""
        self._fetched.clear()
        self._early.cancel()

    def fetch_rest(self) -> None:
        """Bring what was never ready, such as the gradients of parameters that the loss did not come from."""
        for part in _between(self._fetched, len(self._gradient.host)):
            self._gradient.fetch(part)


def _between(parts: list[range], size: int) -> Iterator[range]:
    """Yield what parts of a vector, apart from each other, leave out."""
    end = 0
    for part in [*sorted(parts, key=lambda each: each.start), range(size, size)]:
        if end < part.start:
            yield range(end, part.start)
        end = part.stop
