"""What the process holds, and gives back."""

import ctypes
from collections.abc import Callable


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
