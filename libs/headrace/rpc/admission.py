"""The gate that admits a bounded number of calls, and none while the server drains."""

import threading
from collections.abc import Collection

from headrace.errors import ServerDraining, TooManyCalls
from headrace.rpc.layers import Call

RETRY_AFTER_S = 1.0  # a restart or a burst takes about this long; callers add jitter of their own


class Admission:
    """Counts the calls inside.

    Args:
        limit: How many may be.
        probes: Rpcs, `/package.Service/Method`, that ask how the server is: admitted always and not counted, for a server
            that is full or draining shall say so itself.
    """

    def __init__(self, limit: int, probes: Collection[str] = ()) -> None:
        self._limit = limit
        self._probes = frozenset(probes)
        self._inside: set[Call] = set()
        self._draining = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def enter(self, call: Call) -> None:
        """Let a call in.

        Raises:
            TooManyCalls: As many as may be are inside.
            ServerDraining: The door is closed.
        """
        if call.method in self._probes:
            return
        with self._lock:
            if self._draining:
                raise ServerDraining(
                    "the server is about to stop; call again soon", retry_after_s=RETRY_AFTER_S
                )
            if len(self._inside) >= self._limit:
                raise TooManyCalls(
                    f"the server runs {self._limit} calls already; call again later, or raise MAX_CONCURRENT_RPCS",
                    metadata={"limit": self._limit},
                    retry_after_s=RETRY_AFTER_S,
                )
            self._inside.add(call)

    def leave(self, call: Call) -> None:
        """Let it out."""
        with self._lock:
            self._inside.discard(call)
            if self._draining:
                self._changed.notify_all()

    def drain(self, bound_s: float) -> bool:
        """Close the door, ask the streams inside to end, and wait; return whether all were out within `bound_s`."""
        with self._changed:
            self._draining = True
            inside = list(self._inside)
        for call in inside:
            call.end()
        with self._changed:
            return self._changed.wait_for(lambda: not self._inside, timeout=bound_s)
