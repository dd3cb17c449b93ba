"""Load on a served model: callers who wait for their answers, and calls that come at times of their own."""

import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks._h2_callers import Arrivals, Callers, Outcome
from benchmarks._serving import METHOD, Served, request
from headrace.inference.tensors import Array

SECONDS = 1.0  # of a measurement of callers who wait for their answers
OPEN_SECONDS = 4.0  # of one of calls that come at times of their own


class Closed:
    """Callers who each wait for an answer before they ask again, and what their last measurement gave."""

    def __init__(self, server: Served, inputs: Mapping[str, Array], callers: int) -> None:
        self._server = server
        self._callers = Callers(server.address, METHOD, request(inputs), callers)
        self._spent_s = 0.0

    def rate(self) -> float:
        """Call for `SECONDS`; return the requests answered per second."""
        before, begin = self._server.spent_s(), time.perf_counter()
        answered = len(self._callers.run(SECONDS))
        took_s = time.perf_counter() - begin
        self._spent_s = (self._server.spent_s() - before) / answered
        return answered / took_s

    def cpu_us(self) -> float:
        """Return the server's processor time for a request in the last measurement."""
        return self._spent_s * 1e6

    def p50_ms(self) -> float:
        """Return the median of how long a request took in the last measurement."""
        return statistics.median(self._callers.latencies_s) * 1e3


class Crowd:
    """Calls that come at times of their own, so many for each that the server could answer at most."""

    def __init__(
        self,
        server: Served,
        inputs: Mapping[str, Array],
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._closed = Closed(server, inputs, 32)
        self._calls = Arrivals(server.address, METHOD, request(inputs), timeout_s=timeout_s)
        self._last = Outcome([], [])
        self._peak = 0.0

    def peak(self) -> float:
        """Measure and return the requests answered per second to 32 callers who wait for their answers."""
        self._peak = self._closed.rate()
        return self._peak

    def goodput(self, share: float) -> float:
        """Let `share` of the peak come for so long; return those answered, per second."""
        self._last = self._calls.run(share * self._peak, OPEN_SECONDS)
        return len(self._last.answered_s) / OPEN_SECONDS

    def p99_ms(self, share: float) -> float:
        """Let `share` of the peak come; return within which time 99 % are answered, where a refused one never is."""
        self.goodput(share)
        never = [OPEN_SECONDS] * len(self._last.refused_s)
        return _p99_ms([*self._last.answered_s, *never])

    def refused_ms(self) -> float:
        """Return within which time 99 % of those refused last were told."""
        return _p99_ms(self._last.refused_s)

    def answered_ms(self) -> float:
        """Return within which time 99 % of those answered last had their answer."""
        return _p99_ms(self._last.answered_s)


def _p99_ms(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99)) * 1e3
