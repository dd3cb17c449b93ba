"""Records whole steps of a rank with torch's profiler, when somebody asks for them."""

import threading
from pathlib import Path

import structlog
import torch
from torch.profiler import ProfilerActivity, profile

from headrace.errors import FailedPrecondition
from headrace.tasks.profiles import Order, refuse, trace_path

MAX_TRACE_BYTES = 64 << 20  # gzipped; a viewer takes no more

log = structlog.get_logger(__name__)


class StepProfiler:
    """Orders come from any thread; steps are told by the one that trains, between two of them.

    Args:
        folder: Where traces belong.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._profile: profile | None = None
        self._left = 0

    def take(self, order: Order) -> None:
        """Record the next steps.

        Raises:
            FailedPrecondition: Steps are being recorded for somebody else.
        """
        with self._lock:
            if self._order:
                raise FailedPrecondition("the task is being recorded for somebody else; ask again soon")
            self._order = order

    def stepped(self) -> None:
        """Begin, go on or end, now that a step is over."""
        order = self._order
        if order is None:
            return
        try:
            self._advance(order)
        except (
            OSError,
            RuntimeError,
        ) as error:  # whatever the profiler does not like is no reason to end the training
            log.warning("profile_failed", error=str(error))
            self._end()
            refuse(self._folder, order, f"the profiler failed: {error}")

    def _advance(self, order: Order) -> None:
        if self._profile is None:
            self._profile, self._left = _begin(), order.steps
            return
        self._left -= 1
        if self._left:
            self._profile.step()
            return
        taken = self._profile
        taken.stop()
        self._end()
        self._write(taken, order)

    def _end(self) -> None:
        with self._lock:
            self._profile, self._order = None, None

    def _write(self, taken: profile, order: Order) -> None:
        target = trace_path(self._folder, order)
        fresh = target.with_name(f"new-{target.name}")  # torch gzips by the ending
        taken.export_chrome_trace(str(fresh))
        if fresh.stat().st_size > MAX_TRACE_BYTES:
            fresh.unlink()
            raise OSError(
                f"the trace of {order.steps} steps exceeds {MAX_TRACE_BYTES} bytes; ask for fewer steps"
            )
        fresh.replace(target)
        log.info("steps_recorded", steps=order.steps)


def _begin() -> profile:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    started = profile(activities=activities)
    started.start()
    return started
