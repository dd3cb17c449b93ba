"""Steps of a task that are recorded because somebody asks: the order goes down the control pipe, the trace comes back as a file.

{id}.profile.json.gz   the trace, whole
{id}.profile.txt       or why there is none
"""

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import FailedPrecondition

MOST_STEPS = 100
USUAL_STEPS = 5
KEPT = 2  # traces of one task; the newest
_LOOK_S = 0.1


@dataclass(frozen=True)
class Order:
    """Record so many steps, 1 to `MOST_STEPS`."""

    id: str
    steps: int

    def encode(self) -> bytes:
        """Return what `decode` reads."""
        return json.dumps([self.id, self.steps]).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Order":
        """Read what `encode` wrote."""
        return cls(*json.loads(body))


def new_order(steps: int) -> Order:
    """Return an order that no other has the id of."""
    return Order(uuid.uuid4().hex, steps)


def trace_path(folder: Path, order: Order) -> Path:
    """Say where the trace belongs; it is put there whole."""
    return folder / f"{order.id}.profile.json.gz"


def refuse(folder: Path, order: Order, why: str) -> None:
    """Answer an order without a trace."""
    fresh = folder / f"{order.id}.profile.new"
    fresh.write_text(why)
    fresh.replace(folder / f"{order.id}.profile.txt")


def wait_for_trace(
    folder: Path, order: Order, wanted: Callable[[], bool], goes_on: Callable[[], bool]
) -> Path | None:
    """Return the trace when it is there; None when nobody wants it any more. Older traces go.

    Raises:
        FailedPrecondition: The task cannot be recorded, or has ended before its steps were done.
    """
    pause = threading.Event()
    trace, refusal = trace_path(folder, order), folder / f"{order.id}.profile.txt"
    while wanted():
        runs = goes_on()  # asked first: the trace may be its last deed
        if trace.exists():
            _drop_old(folder)
            return trace
        if refusal.exists():
            why = refusal.read_text()
            refusal.unlink()
            raise FailedPrecondition(why)
        if not runs:
            raise FailedPrecondition(f"the task ended before {order.steps} more steps were done")
        pause.wait(_LOOK_S)
    return None


def _drop_old(folder: Path) -> None:
    traces = sorted(folder.glob("*.profile.json.gz"), key=lambda path: path.stat().st_mtime_ns)
    for trace in traces[:-KEPT]:
        trace.unlink(missing_ok=True)
