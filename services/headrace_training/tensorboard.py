"""TensorBoard's event files, written by rank 0: point `tensorboard --logdir` at the folder of all runs."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

FLUSH_S = 5  # a curve is at most that old


def is_installed() -> bool:
    """Tell whether the extra `tensorboard` is installed."""
    return find_spec("tensorboard") is not None


class TensorBoard:
    """A `Tracker` that writes one run.

    Args:
        folder: Of this run; made if it is missing. Attempts of one run share it.
        start_step: Steps an earlier attempt did: what it wrote of later ones is hidden.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        # Imported here: it takes a second, and only some runs want it.
        from torch.utils.tensorboard.writer import SummaryWriter

        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=FLUSH_S)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one point of each curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, error: BaseException | None) -> None:  # noqa: ARG002 - a curve has no end
        """Write what is still in memory."""
        self._writer.close()
