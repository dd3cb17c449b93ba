"""Where a task is at this moment, also one that hangs in a call into C: its process answers a signal without running any Python.

Python's faulthandler writes the stack of each thread to a file beside the log. py-spy, where it is installed and may look into other
processes, sees native frames too, and asks nothing of the task.
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from headrace.errors import DeadlineExceeded

_FILE = "stacks.txt"
_SIGNAL = signal.SIGUSR1
_MAX_BYTES = 1 << 20  # the file is emptied beyond it; one dump has some kilobytes
_WAIT_S = 5.0
_LOOK_S = 0.05
_QUIET_LOOKS = 10  # without another byte: the dump is whole, unless a busy machine keeps the task from writing for half a second


def listen(folder: Path) -> None:
    """Answer the signal from now on; called by the task, before it says that its work begins."""
    file = (folder / _FILE).open("ab", buffering=0)  # open as long as the process lives
    faulthandler.register(_SIGNAL, file, all_threads=True)


def dump_stacks(pid: int, folder: Path) -> tuple[str, str]:
    """Return who looked, and where each thread of the task is.

    Args:
        pid: Of a process that listens.
    Raises:
        DeadlineExceeded: It does not answer: it is stopped, or has just ended.
    """
    return _by_py_spy(pid) or ("faulthandler", _by_signal(pid, folder / _FILE))


def _by_py_spy(pid: int) -> tuple[str, str] | None:
    beside_python = Path(sys.executable).with_name("py-spy")
    py_spy = str(beside_python) if beside_python.exists() else shutil.which("py-spy")
    if py_spy is None:
        return None
    try:
        done = subprocess.run(
            [py_spy, "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=_WAIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ("py-spy", done.stdout) if done.returncode == 0 else None


def _by_signal(pid: int, path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        os.truncate(path, 0)
    begin = path.stat().st_size
    os.kill(pid, _SIGNAL)
    pause, size, quiet = threading.Event(), begin, 0
    for _ in range(round(_WAIT_S / _LOOK_S)):
        pause.wait(_LOOK_S)
        before, size = size, path.stat().st_size
        quiet = quiet + 1 if size == before > begin else 0
        if quiet == _QUIET_LOOKS:
            with path.open("rb") as file:
                file.seek(begin)
                return file.read(_MAX_BYTES).decode(errors="replace")
    raise DeadlineExceeded(
        f"the task did not answer within {_WAIT_S:g} s; its process is stopped, or about to end"
    )
