"""The device of a rank, found on its machine and made ready."""

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch

from headrace_training.core.device import Device
from headrace_training.core.placement import Asked, place_for


@contextmanager
def device_for(asked: Asked, visible: str) -> Iterator[Device]:
    """Find the device that is asked for, and let torch compute there as it does on a CPU: exactly, and the same each time.

    Args:
        visible: Which devices this process may see, as CUDA_VISIBLE_DEVICES says.
    Raises:
        FailedPrecondition: There is none.
    """
    devices = 0 if asked == "cpu" else torch.cuda.device_count()
    if not devices:
        yield Device(place_for(asked, 0, 0, _why_none(visible)))
        return
    with seat(visible) as number:
        device = Device(place_for(asked, number, devices, ""))
        _prepare()
        device.use()
        yield device


@contextmanager
def seat(room: str) -> Iterator[int]:
    """Hold the lowest number that no other process of this user holds in a room on this machine.

    It is held as a name of a socket, which the system takes back however the process ends.
    """
    key = hashlib.sha256(room.encode()).hexdigest()[:16]
    for number in count():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
            try:
                held.bind(f"\0headrace/{os.getuid()}/{key}/{number}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            yield number
            return


def _why_none(visible: str) -> str:
    if torch.version.cuda is None:
        return f"its torch {torch.__version__} is built without CUDA"
    return f"its torch {torch.__version__} sees none, CUDA_VISIBLE_DEVICES is {visible!r}"


def _prepare() -> None:
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # else its sums depend on what runs beside them
    # A communicator that fails is given up by us (`NcclGroup.abort`); torch would end the process.
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, in convolutions too
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch sets it up at runtime
