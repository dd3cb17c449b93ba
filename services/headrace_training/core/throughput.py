"""How many samples a rank gets through in a second, and how long its own part of a step takes it."""

from collections.abc import Callable

_WARM_UP = 3  # steps whose time says nothing of the next: memory is taken, code is loaded
_SMOOTHING = 0.2  # weight of a step in the mean: the last ten make nine tenths of it


class OwnTime:
    """How long a rank takes for its own part of a step, without what it waits for: a mean that forgets."""

    def __init__(self) -> None:
        self._steps = 0
        self._mean_s = 0.0

    def add(self, seconds: float) -> None:
        """Note a step."""
        self._steps += 1
        if self._steps > _WARM_UP:
            weight = max(_SMOOTHING, 1 / (self._steps - _WARM_UP))
            self._mean_s += weight * (seconds - self._mean_s)

    @property
    def seconds(self) -> float:
        """The mean; 0 before there is one."""
        return self._mean_s


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
