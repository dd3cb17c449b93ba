"""How commands end when a person has enough: calls by Ctrl-C, services by SIGTERM too, both by a second Ctrl-C for the impatient."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
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


@contextmanager
def interruptible(stop: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C call `stop`, and raise KeyboardInterrupt as soon as what is inside the `with` has ended of it.

    Raised where it falls, which may be in the middle of gRPC's own code, KeyboardInterrupt leaves locks held and memory damaged:
    the command would hang, or crash. A second Ctrl-C raises it nevertheless. Where Ctrl-C is ignored, as in the background of a
    script, it stays so.

    Args:
        stop: Ends the calls inside the `with`, from another thread.
    """
    asked: SimpleQueue[bool] = SimpleQueue()  # the one queue that a signal handler may put into
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    interrupted = False

    def stop_when_asked() -> None:
        if asked.get():
            stop()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, before)
        asked.put(True)

    stopper = threading.Thread(target=stop_when_asked, name="interruption", daemon=True)
    stopper.start()
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception:
        if not interrupted:  # what ends by the interruption is no error
            raise
    finally:
        signal.signal(signal.SIGINT, before)
        asked.put(False)
        stopper.join()
    if interrupted:
        raise KeyboardInterrupt
