"""A device that is none."""

import torch

from headrace_training.core.device import Device


class Apart(Device):
    """Memory that the host does not reach, played by other memory of the host: whatever is not copied is missed."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[torch.Tensor] = []

    @property
    def is_host(self) -> bool:
        return False

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        self.received.append(tensor.clone())
        return self.received[-1]

    def metrics(self) -> dict[str, float]:
        return {"peak_device_bytes": float(sum(each.nbytes for each in self.received))}
