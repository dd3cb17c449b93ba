"""Streams that last: each holds a thread of the server, so there is a bound."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from headrace.errors import ResourceExhausted
from headrace.rpc.layers import Call
from headrace_scheduler.engine import Engine


@contextmanager
def watching(slots: BoundedSemaphore, engine: Engine, call: Call) -> Iterator[None]:
    """Hold one of the slots for watchers, and wake the watcher when its call has ended.

    Raises:
        ResourceExhausted: All are taken.
    """
    if not slots.acquire(blocking=False):
        raise ResourceExhausted(
            "as many callers watch as the scheduler allows; close one, or ask again from time to time instead",
            retry_after_s=5.0,
        )
    try:
        call.on_end(engine.wake)
        yield
    finally:
        slots.release()
