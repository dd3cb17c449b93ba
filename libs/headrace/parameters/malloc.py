"""Tell glibc's allocator to keep freed memory.

Values travel in buffers that are allocated and freed with every step. glibc maps large ones anew each time, and the kernel must zero
every page of them: for shards of tens of megabytes that is as much work as moving the values. A process that does little else
than that, a parameter service or a worker, calls `keep_freed_memory` first of all.
`python -m benchmarks.parameters transfer` measures what it is worth.
"""

import ctypes

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# Freed memory at the end of the heap that is kept: more than one step of a large shard uses.
_KEEP_BYTES = 1 << 30
_GROW_BYTES = 64 << 20  # by how much the heap grows at least


def give_back_freed_memory() -> None:
    """Return to the system what is free, once: for after something that needed much and does not happen again."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def keep_freed_memory() -> bool:
    """Take large buffers from the heap, of which there is one, and keep it; return False, with nothing done, without glibc.

    With a heap for each thread, each would keep its own freed memory: 1 to 5 bytes per parameter in a shard of 10M. Python's threads
    seldom need memory at the same time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEEP_BYTES, _M_TOP_PAD: _GROW_BYTES}
    return all(mallopt(name, value) for name, value in settings.items())
