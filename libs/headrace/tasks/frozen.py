"""A subprocess that somebody has stopped (SIGSTOP) and not continued: it holds its slot and whoever waits for it."""

import contextlib
import os
import signal
import time

FROZEN_S = 10.0  # longer than anyone stops a process by accident, and looks at it
FROZEN = "the task's process was stopped by a signal and not continued, so it was killed"
_LOOK_S = 0.1


def end_frozen(pid: int, frozen_s: float) -> bool:
    """Wait until a child has exited, without reaping it; kill it if it is stopped for `frozen_s`, and return True then.

    Not reaped, its id cannot belong to a stranger.
    """
    frozen = False
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT).si_code == os.CLD_STOPPED:  # type: ignore[union-attr]  # None comes with WNOHANG alone
        _heard(pid, os.WSTOPPED)
        if not _goes_on(pid, frozen_s):
            frozen = True
            os.kill(pid, signal.SIGKILL)
    return frozen


def _goes_on(pid: int, timeout_s: float) -> bool:
    """Tell whether a stopped child is continued, or ends, in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT):
            _heard(pid, os.WCONTINUED)
            return True
        time.sleep(_LOOK_S)
    return False


def _heard(pid: int, change: int) -> None:
    """Be told of this change no more."""
    with contextlib.suppress(ChildProcessError):  # it has ended meanwhile, and changes no more
        os.waitid(os.P_PID, pid, change | os.WNOHANG)
