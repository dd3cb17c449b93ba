"""What a rank computes on. All that differs between the host and a GPU is decided here, and nowhere else asked."""

import hashlib
from contextlib import AbstractContextManager

import numpy as np
import torch

from headrace.parameters.layout import Floats


class Device:
    """A place for a model, its batches and its gradients.

    Args:
        place: As torch names it: "cpu", "cuda:1".
    """

    def __init__(self, place: str = "cpu") -> None:
        self.place = torch.device(place)

    @property
    def is_host(self) -> bool:
        """Whether what lies here is memory that this process, and shards of this machine, read and write as it is."""
        return self.place.type == "cpu"

    @property
    def name(self) -> str:
        """What the device is called by its maker."""
        return torch.cuda.get_device_name(self.place) if self.place.type == "cuda" else "cpu"

    @property
    def mark(self) -> int:
        """A number that tells this GPU from all others of the world; 0 for the host."""
        if self.place.type != "cuda":
            return 0
        uuid = str(torch.cuda.get_device_properties(self.place).uuid)
        return 1 + int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:7], "big")

    def holds(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor lies here, and not on the host."""
        return not self.is_host and tensor.device == self.place

    def use(self) -> None:
        """Let the calling thread mean this device where nothing names one."""
        if self.place.type == "cuda":
            torch.cuda.set_device(self.place)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the host as it lies here; from pinned memory the host does not wait for the copy."""
        if self.is_host:
            return tensor
        staged = tensor.pin_memory() if self.place.type == "cuda" else tensor
        return staged.to(self.place, non_blocking=True)

    def zeros(self, size: int) -> torch.Tensor:
        """Return a vector of float32 here."""
        return torch.zeros(size, device=self.place)

    def host_memory(self, size: int) -> Floats:
        """Return a vector of the host, pinned where that makes copies to and from here faster."""
        if self.place.type == "cuda":
            pinned: Floats = torch.zeros(size, pin_memory=True).numpy()
            return pinned
        return np.zeros(size, np.float32)

    def autocast(self, *, bf16: bool) -> AbstractContextManager[object]:
        """Compute within in bfloat16 where that is enough, if asked to."""
        return torch.autocast(self.place.type, torch.bfloat16, enabled=bf16)

    def wait(self) -> None:
        """Wait until all that was asked of the device is done."""
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)

    def metrics(self) -> dict[str, float]:
        """Return `peak_device_bytes`, the most memory of the device that tensors of this process had at a time; nothing on the host."""
        if self.place.type != "cuda":
            return {}
        return {"peak_device_bytes": float(torch.cuda.max_memory_allocated(self.place))}


HOST = Device()
