"""How many samples a rank gets through in a second."""

from collections.abc import Callable


class Throughput:
    """Counts from the end of the first step, which waits for the other ranks to start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None
        self._samples = 0

    def add(self, samples: int) -> None:
        """Note that a step of so many samples is done."""
        if self._began is None:
            self._began = self._clock()
        else:
            self._samples += samples

    @property
    def samples_per_s(self) -> float:
        """The mean so far, whatever else the steps waited for included; 0 before the second step."""
        if self._began is None or not self._samples:
            return 0.0
        seconds = self._clock() - self._began
        return self._samples / seconds if seconds > 0 else 0.0
