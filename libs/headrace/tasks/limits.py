"""What a task may use of its machine: limits that the system keeps, set from outside before the program begins, for it and all that it starts."""

import ctypes
import resource
import sys
from dataclasses import dataclass

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_LAST_WORDS_S = 5  # of CPU time, from SIGXCPU to SIGKILL


@dataclass(frozen=True)
class Limits:
    """0 means as much as the service itself may use."""

    memory_bytes: int = (
        0  # of one process: its private memory, reserved or used; files and shared memory do not count
    )
    open_files: int = 0  # of one process
    processes: int = 0  # and threads, of all that this user runs; the system does not hold root to it
    file_bytes: int = 0  # of one file that it writes
    cpu_s: int = 0  # of one process, over all its threads

    def apply(self, pid: int) -> None:
        """Hold a process and what it will start to them, and let it write no core file. Linux alone can; elsewhere nothing is done.

        Raises:
            ProcessLookupError: It is gone.
        """
        if not can_limit():
            return
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        for kind, most in (
            (resource.RLIMIT_DATA, self.memory_bytes),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_FSIZE, self.file_bytes),
        ):
            if most:
                _lower(pid, kind, most, most)
        if self.cpu_s:
            _lower(pid, resource.RLIMIT_CPU, self.cpu_s, self.cpu_s + _LAST_WORDS_S)


def can_limit() -> bool:
    """Tell whether this system lets one process limit another."""
    return sys.platform == "linux"


def _lower(pid: int, kind: int, soft: int, hard: int) -> None:
    """Set a limit, but never above what the service itself has."""
    _, most = resource.prlimit(pid, kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.prlimit(pid, kind, (soft, hard))


def memory_limit() -> int:
    """Return this process's limit of memory in bytes; 0 if there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return 0 if soft == resource.RLIM_INFINITY else soft


def hide_environment() -> None:
    """Let no other process of this user read the environment, or the memory, of this one: programs run as the same user.

    Root may still look: run nodes as an ordinary user. Does nothing where the system is not Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
