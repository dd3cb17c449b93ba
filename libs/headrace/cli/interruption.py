"""How commands that run services end: SIGTERM as Ctrl-C, and a second Ctrl-C for the impatient."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.local.supervisor import Supervisor


def end_on_sigterm() -> None:
    """Raise KeyboardInterrupt in the main thread when this process is asked to end."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def stopping(supervisor: Supervisor) -> Iterator[Supervisor]:
    """Run what is supervised and stop it at the end; Ctrl-C while it stops kills what is left."""
    try:
        with supervisor:
            yield supervisor
    except KeyboardInterrupt:
        # After a stop that went well nothing is left to kill.
        supervisor.stop(within_s=0)
        raise
