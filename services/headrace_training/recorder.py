"""What a rank measures, for later: in the task's history, and wherever the operator wants it beside that."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import structlog

from headrace.tasks.history import History

# A curve with more points a second shows nothing more, and files and servers would have to take them.
TRACK_EVERY_S = 0.1

log = structlog.get_logger(__name__)


class Tracker(Protocol):
    """Somewhere else that curves are drawn."""

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take what was measured after `step` steps. Quick: a step waits for it."""

    def close(self, error: BaseException | None) -> None:
        """Take care that everything has arrived, within seconds; `error` is what ended the task, if it did not succeed."""


class Recorder:
    """Hears every measure; a context that ends with the task. What cannot be written is logged, and training goes on."""

    def __init__(
        self,
        history: History,
        open_trackers: Callable[[int], Sequence[Tracker]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin, without trackers.

        Args:
            open_trackers: Called with the steps that are done, when the rank leads.
            clock: Returns seconds.
        """
        self._history, self._open_trackers, self._clock = history, open_trackers, clock
        self._trackers: Sequence[Tracker] = ()
        self._evaluated: set[str] = set()
        self._tracked_at = float("-inf")
        self._newest: tuple[int, dict[str, float]] | None = None  # not tracked yet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._newest:
            self._track(*self._newest)
        self._keep(self._history.flush)
        for tracker in self._trackers:
            self._keep(partial(tracker.close, error))

    def track(self, step: int) -> None:
        """Let trackers hear of what comes after `step` steps."""
        self._trackers = self._open_trackers(step)

    def stepped(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the measures after a step. Those of evaluations among them are older, and left out."""
        fresh = {name: value for name, value in metrics.items() if name not in self._evaluated}
        self._keep(lambda: self._history.add(step, fresh))
        self._newest = (step, fresh)
        if self._clock() - self._tracked_at >= TRACK_EVERY_S:
            self._tracked_at, self._newest = self._clock(), None
            self._track(step, fresh)

    def checkpointed(self) -> None:
        """Write what an attempt that goes on from here does not measure again."""
        self._keep(self._history.flush)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record what was measured on the validation split."""
        self._evaluated |= set(metrics)
        self._keep(lambda: self._history.add(step, metrics))
        self._track(step, metrics)

    def _track(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            self._keep(partial(tracker.add, step, metrics))

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            log.warning("measures_not_written", error=str(error))
