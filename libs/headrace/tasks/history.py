"""The course of a task's measures: every value while there are few, every second, fourth, ... one of those that are many.

The task writes it beside its log, as one file that is replaced now and then; its node reads it for whoever asks.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import DataLoss
from headrace.tasks.bounds import MAX_METRIC_NAME, MAX_METRICS

MAX_POINTS = 1000  # of one measure: more than a screen has columns
FILE = "metrics.json"
_MAX_FILE_BYTES = 16 << 20  # MAX_METRICS times MAX_POINTS, at the most digits a number has
_FLUSH_S = 2.0  # from one writing to the next
_SHARE = 0.02  # of the time, at most, that goes into writing


@dataclass
class Series:
    """One measure over the steps, of at most `MAX_POINTS` points: every `stride`-th that was added, and the newest."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    _count: int = 0

    def add(self, step: int, value: float) -> None:
        """Add the value after `step` steps, more than any before."""
        if self._count and (self._count - 1) % self.stride:
            del self.steps[-1], self.values[-1]  # it was kept as the newest only
        self.steps.append(step)
        self.values.append(value)
        self._count += 1
        if len(self.steps) > MAX_POINTS:
            self._thin()

    def _thin(self) -> None:
        newest = (self.steps[-1], self.values[-1])
        self.steps, self.values = self.steps[::2], self.values[::2]
        self.stride *= 2
        if self.steps[-1] != newest[0]:
            self.steps.append(newest[0])
            self.values.append(newest[1])


class History:
    """All measures of a task, in memory and in `folder`; at most `MAX_METRICS`, those that came first."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty.

        Args:
            clock: Returns seconds.
        """
        self.series: dict[str, Series] = {}
        self._path = folder / FILE
        self._clock = clock
        self._due = clock() + _FLUSH_S

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add what was measured after `step` steps; write it if it is time.

        Raises:
            OSError: It could not be written.
        """
        for name, value in metrics.items():
            if name not in self.series and (len(self.series) >= MAX_METRICS or len(name) > MAX_METRIC_NAME):
                continue
            self.series.setdefault(name, Series()).add(step, value)
        if self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write all of it: a reader sees it whole, or as it was before.

        Raises:
            OSError: It could not be written.
        """
        began = self._clock()
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({name: [one.steps, one.values] for name, one in self.series.items()}))
        fresh.replace(self._path)
        ended = self._clock()
        self._due = ended + max(_FLUSH_S, (ended - began) / _SHARE)


def read_history(folder: Path) -> dict[str, Series]:
    """Return what a task has written so far; nothing if it has not.

    Raises:
        DataLoss: There is something else, which a program must have put there.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise DataLoss(
                f"the history of measures is larger than {_MAX_FILE_BYTES} bytes; the program has damaged it"
            )
        written = json.loads(path.read_text())
        return {str(name): _series(*columns) for name, columns in sorted(written.items())[:MAX_METRICS]}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataLoss("the history of measures is damaged; the program must have written to it") from error


def _series(steps: list[int], values: list[float]) -> Series:
    if len(steps) != len(values) or len(steps) > MAX_POINTS + 1:
        raise ValueError("steps and values do not match")
    return Series([int(step) for step in steps], [float(value) for value in values])
