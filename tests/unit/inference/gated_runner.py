"""A model that runs only when the test lets it: what happens meanwhile is up to the test, not to time."""

import threading
from collections.abc import Sequence

from headrace.errors import InvalidArgument
from headrace_inference.core.batching import Arrays

WAIT_S = 20  # a bound for tests that would otherwise hang


class GatedRunner:
    """Doubles x. Each run waits at the gate; a -1 anywhere in x fails it.

    `ran` lists the x of every run that was let through.
    """

    def __init__(self) -> None:
        self.ran: list[list[float]] = []
        self._arrived = threading.Semaphore(0)
        self._gate = threading.Semaphore(0)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        self._arrived.release()
        assert self._gate.acquire(timeout=WAIT_S)
        x = inputs["x"]
        self.ran.append(x.ravel().tolist())
        if (x == -1).any():
            raise InvalidArgument("the model cannot run these inputs: -1")
        return dict.fromkeys(outputs, x * 2)

    def wait_for_a_run(self) -> None:
        """Return when one more run stands at the gate."""
        assert self._arrived.acquire(timeout=WAIT_S)

    def let_through(self, runs: int = 1) -> None:
        """Open the gate for so many runs."""
        self._gate.release(runs)
