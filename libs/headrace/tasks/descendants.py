"""Every process a task started, wherever it went: one that leads a session of its own, or whose parent is gone, still carries the mark.

The mark is a variable in the environment of the task's process, which whatever it starts inherits. A program that starts something
without it means to get away; this is about order, not about security.
"""

import contextlib
import os
import uuid

import psutil

MARK = "HEADRACE_TASK"
_PASSES = 10  # a process may start another between being found and being killed; one that does so forever is not waited for


def new_mark() -> str:
    """Return a mark no other task has."""
    return uuid.uuid4().hex


def end_marked(mark: str) -> None:
    """Kill every process but this one that carries `mark`. Where the system does not show environments, none is found."""
    for _ in range(_PASSES):
        found = [process for process in psutil.process_iter() if _carries(process, mark)]
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK, "") == mark != ""
    except (psutil.Error, OSError, AttributeError):  # it is gone, or a stranger's; or the system tells nobody
        return False
