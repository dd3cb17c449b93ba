"""What the process holds, and gives back."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import psutil

_SHARES = Path("/proc/self/smaps_rollup")
KIB = 1024


def _trimmer() -> Callable[[int], int] | None:
    """Find glibc's malloc_trim; other C libraries have none, and most of them need none."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


_TRIM = _trimmer()


def give_back_memory() -> None:
    """Return freed memory to the system, which the C library would keep for later."""
    if _TRIM is not None:
        _TRIM(0)


def held_bytes() -> int:
    """Return the memory that this process holds: mapped files as well, what it shares with others or maps twice counted once.

    Where the system does not tell so much it is what is resident.
    """
    try:
        share = re.search(r"^Pss:\s+(\d+) kB", _SHARES.read_text(), re.MULTILINE)
    except OSError:
        share = None
    return int(share[1]) * KIB if share else int(psutil.Process().memory_info().rss)
