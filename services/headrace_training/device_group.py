"""The ranks of a run without a parameter server, wherever their models are.

Small things, and whatever lies on the host, are summed by gloo. What lies on GPUs is summed by NCCL if each rank has one of its own, else by
way of the host.
"""

from typing import Protocol

import structlog
import torch

from headrace_training.core.device import Device
from headrace_training.core.group import Group
from headrace_training.core.placement import backend_of
from headrace_training.gloo import GlooGroup, Store
from headrace_training.interruption import Interruptible
from headrace_training.nccl import NcclGroup

log = structlog.get_logger(__name__)


class Gpus(Protocol):
    """What sums between GPUs; `NcclGroup` is one."""

    def sum(self, vector: torch.Tensor) -> None:
        """Replace `vector` by the sum of all ranks' vectors."""

    def abort(self) -> None:
        """Let go of the other ranks."""


class DeviceGroup:
    """A `Group` that sums what lies on this rank's device, too.

    Args:
        group: The ranks, by their hosts.
        gpus: The same ranks, by their GPUs; None: not each has one.
    """

    def __init__(self, group: Group, device: Device, gpus: Gpus | None) -> None:
        self._group, self._device, self._gpus = group, device, gpus
        self.rank, self.size = group.rank, group.size

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors."""
        if not self._device.holds(vector):
            self._group.sum(vector, timeout_s)
        elif self._gpus:
            # First by gloo: it notices who is gone, so that no GPU begins to wait for it.
            self._group.sum(torch.zeros(1), timeout_s)
            self._gpus.sum(vector)
        else:
            on_host = vector.to("cpu", copy=True)
            self._group.sum(on_host, timeout_s)
            vector.copy_(on_host)

    def tell(self, note: str) -> None:
        """Leave a note for the other ranks, unless there is one."""
        self._group.tell(note)

    def note(self) -> str:
        """Return the note."""
        return self._group.note()

    def abort(self) -> None:
        """Let no GPU wait for the other ranks any longer; this group is of no more use."""
        if self._gpus:
            self._gpus.abort()


def meet_on_devices(
    store: Store, rank: int, size: int, host: str, device: Device, timeout_s: float, waiting: Interruptible
) -> DeviceGroup:
    """Connect a rank with all others, by whatever all of them can; arguments and errors as of `GlooGroup` and `NcclGroup`."""
    group = GlooGroup(store, rank, size, host, timeout_s, waiting)
    marks = torch.zeros(size, dtype=torch.int64)
    marks[rank] = device.mark
    group.sum(marks)
    backend = backend_of(marks.tolist())
    log.info("ranks_met", rank=rank, of=size, device=str(device.place), backend=backend)
    gpus = NcclGroup(store, rank, size, device, timeout_s, waiting) if backend == "nccl" else None
    return DeviceGroup(group, device, gpus)
