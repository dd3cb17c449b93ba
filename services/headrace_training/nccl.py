"""Sums between GPUs by NCCL, beside the gloo group of the same ranks.

NCCL waits on the GPU, and neither notices a rank that is gone nor lets go by itself: `abort` makes it.
"""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from headrace.errors import DeadlineExceeded
from headrace_training.core.device import Device
from headrace_training.gloo import Store, c10d, lost
from headrace_training.interruption import Interruptible

_ABORT_S = 10.0

Make = Callable[
    [Store, int, int, float], Any
]  # a backend of torch.distributed, of store, rank, size and timeout


def nccl_group(store: Store, rank: int, size: int, timeout_s: float) -> Any:
    """Make a rank's part in a communicator; it connects with the first sum."""
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=timeout_s)  # noqa: SLF001 - as for gloo
    return c10d.ProcessGroupNCCL(store, rank, size, options)


class NcclGroup:
    """One rank's part in a communicator; made when all have come.

    Args:
        store: As for `GlooGroup`, of which this is the second.
        device: This rank's GPU, which no other rank has.
        timeout_s: Bound of every sum and of the making.
        make: Another backend, where there is no GPU.
    Raises:
        Unavailable: A rank went away meanwhile.
        Cancelled, DeadlineExceeded: As in `Interruptible.run`.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        device: Device,
        timeout_s: float,
        waiting: Interruptible,
        make: Make = nccl_group,
    ) -> None:
        self._make, self._device, self._timeout_s, self._waiting = make, device, timeout_s, waiting
        self._group = waiting.run(lambda: self._connect(store, rank, size), timeout_s, "meeting of the GPUs")

    def sum(self, vector: torch.Tensor) -> None:
        """Replace `vector`, on the GPU, by the sum of all ranks' vectors; it is there when this returns."""
        self._waiting.run(lambda: self._sum(vector), self._timeout_s, "step")

    def abort(self) -> None:
        """Let go of the other ranks, from any thread: whatever waits for them on the GPU ends, with anything in its vector."""
        # In a thread of its own, which may be left alone: ranks that still connect cannot be interrupted.
        with contextlib.suppress(DeadlineExceeded):
            Interruptible().run(self._group.abort, _ABORT_S, "end of a communicator")

    def _connect(self, store: Store, rank: int, size: int) -> Any:
        self._device.use()  # each thread has one of its own
        try:
            return self._make(c10d.PrefixStore("nccl", store), rank, size, self._timeout_s)
        except RuntimeError as error:
            raise lost(error) from error

    def _sum(self, vector: torch.Tensor) -> None:
        try:
            self._group.allreduce([vector]).wait()
            self._device.wait()  # what `wait` waits for is that the GPU knows of the sum
        except RuntimeError as error:
            raise lost(error) from error
