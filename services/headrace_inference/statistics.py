"""What one version of a model has done: the one place that is counted in, read by ModelStatistics and by Prometheus."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_inference.core.batching import Cut

NS = 1_000_000_000
ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
SECOND_BOUNDS = (
    5e-5,
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
# Sizes of batches up to this are told apart, larger ones are counted as the next power of two: whoever sends requests of
# ever new sizes must not fill the memory with lines of statistics.
EXACT_SIZES = 1024

CANCELLED = "CANCELLED"
REJECTED = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


@dataclass(frozen=True)
class Duration:
    """How often something was done, and how many nanoseconds it took altogether."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.count + other.count, self.ns + other.ns)


class Run(NamedTuple):
    """A batch that ran and answered all its requests.

    Args:
        rows: Of all requests together.
        queued_s: How long each request had waited when the batch began.
        input_s, infer_s, output_s: How long it took to join the inputs, to run, and to split the outputs.
        cut: Why the batch was not larger.
        elements, padding: Elements of the padded inputs, and how many of these were padding; 0 if nothing is padded.
    """

    rows: int
    queued_s: Sequence[float]
    input_s: float
    infer_s: float
    output_s: float
    cut: Cut
    elements: int = 0
    padding: int = 0


@dataclass(frozen=True)
class BatchTimes:
    """The batches of one size; each counts once, however many requests it had."""

    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()

    def __add__(self, other: "BatchTimes") -> "BatchTimes":
        return BatchTimes(
            self.compute_input + other.compute_input,
            self.compute_infer + other.compute_infer,
            self.compute_output + other.compute_output,
        )


@dataclass(frozen=True)
class Distribution:
    """How many values were at most each bound (the last count: all of them), and their sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


@dataclass(frozen=True)
class Statistics:
    """What was counted so far.

    A request that ran counts in `success`, with its time from arrival to answer, and in `queue` and the three of `times`,
    with the whole time of its batch: so Triton's clients read them. `failures` are by reason, with the time from arrival.

    Args:
        inferences: Rows that were answered.
        executions: Batches that ran.
        last_s: When the last batch ended, in seconds since 1970; 0 if none has.
        batches: By rows; above `EXACT_SIZES` by the next power of two.
    """

    inferences: int
    executions: int
    last_s: float
    success: Duration
    queue: Duration
    times: BatchTimes
    failures: Mapping[str, Duration]
    batches: Mapping[int, BatchTimes]
    cuts: Mapping[Cut, int]
    rows: Distribution
    queued: Distribution
    ran: Distribution
    elements: int
    padding: int

    @property
    def fail(self) -> Duration:
        """All that got an error, for whatever reason."""
        return sum(self.failures.values(), Duration())

    @property
    def cancel(self) -> Duration:
        """Those whose callers went away before they ran."""
        return self.failures.get(CANCELLED, Duration())

    @property
    def reject(self) -> Duration:
        """Those that a full queue or their deadline kept from running."""
        return sum((self.failures.get(reason, Duration()) for reason in REJECTED), Duration())


class BatchStatistics:
    """Counts what the engine of one version of a model does; thread-safe.

    Args:
        clock: Tells the time of the day, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_s = 0.0
        self._inferences = self._executions = 0
        self._success, self._queue = _Total(), _Total()
        self._times = _Times()
        self._failures: dict[str, _Total] = {}
        self._batches: dict[int, _Times] = {}
        self._cuts = dict.fromkeys(Cut, 0)
        self._rows, self._queued, self._ran = (
            _Histogram(ROW_BOUNDS),
            _Histogram(SECOND_BOUNDS),
            _Histogram(SECOND_BOUNDS),
        )
        self._elements = self._padding = 0

    def ran(self, run: Run) -> None:
        """Count a batch and the requests it answered."""
        requests, now = len(run.queued_s), self._clock()
        queued_s = sum(run.queued_s)
        size = run.rows if run.rows <= EXACT_SIZES else 1 << (run.rows - 1).bit_length()
        with self._lock:
            self._last_s = now
            self._inferences += run.rows
            self._executions += 1
            self._queue.add(requests, queued_s)
            self._success.add(requests, queued_s + requests * (run.input_s + run.infer_s + run.output_s))
            self._times.add(run, requests)
            self._batches.setdefault(size, _Times()).add(run, 1)
            self._cuts[run.cut] += 1
            self._rows.add(run.rows)
            self._ran.add(run.infer_s)
            for seconds in run.queued_s:
                self._queued.add(seconds)
            self._elements += run.elements
            self._padding += run.padding

    def failed(self, reason: str, seconds: float) -> None:
        """Count a request that got an error after so long."""
        with self._lock:
            self._failures.setdefault(reason, _Total()).add(1, seconds)

    def snapshot(self) -> Statistics:
        """Return what was counted so far, all of one moment."""
        with self._lock:
            return Statistics(
                self._inferences,
                self._executions,
                self._last_s,
                self._success.duration,
                self._queue.duration,
                self._times.times,
                {reason: total.duration for reason, total in self._failures.items()},
                {size: times.times for size, times in sorted(self._batches.items())},
                {cut: count for cut, count in self._cuts.items() if count},
                self._rows.distribution,
                self._queued.distribution,
                self._ran.distribution,
                self._elements,
                self._padding,
            )


@dataclass
class _Total:
    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.count += count
        self.seconds += seconds

    @property
    def duration(self) -> Duration:
        return Duration(self.count, round(self.seconds * NS))


@dataclass
class _Times:
    input: _Total = field(default_factory=_Total)
    infer: _Total = field(default_factory=_Total)
    output: _Total = field(default_factory=_Total)

    def add(self, run: Run, count: int) -> None:
        for total, seconds in (
            (self.input, run.input_s),
            (self.infer, run.infer_s),
            (self.output, run.output_s),
        ):
            total.count += count
            total.seconds += count * seconds

    @property
    def times(self) -> BatchTimes:
        return BatchTimes(self.input.duration, self.infer.duration, self.output.duration)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def distribution(self) -> Distribution:
        total, cumulated = 0, []
        for count in self._counts:
            total += count
            cumulated.append(total)
        return Distribution(self._bounds, cumulated, self._sum)
