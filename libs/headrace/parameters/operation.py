"""One request to all shards of a store: its deadline, its retries, and the way to stop it."""

import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from headrace.errors import (
    Cancelled,
    DeadlineExceeded,
    HeadraceError,
    NotPrimary,
    QuotaExceeded,
    TooManyCalls,
    Unavailable,
)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.25  # a shard that was killed is back within seconds, and its workers wait for it

_STOPPED = "the call was stopped, because another shard failed or the client was closed"


class Cancellable(Protocol):
    """A running gRPC call."""

    def cancel(self) -> object:
        """End it."""


class _Part:
    def __init__(self, part: "Operation") -> None:
        self._part = part

    def cancel(self) -> None:
        """End it."""
        self._part.stop()


Result = TypeVar("Result")
Call = TypeVar("Call", bound=Cancellable)


class Operation:
    """Work that several threads do for one caller; the first failure or `stop` ends all of it.

    Args:
        timeout_s: Time for all of it, retries included.
    """

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: list[Cancellable] = []

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def track(self, call: Call) -> Call:
        """Return `call`, to be cancelled when the operation stops."""
        with self._lock:
            self._running.append(call)
            stopped = self._stopped.is_set()
        if stopped:
            call.cancel()
        return call

    def stop(self) -> None:
        """End all running calls and let no other begin."""
        with self._lock:
            self._stopped.set()
            running = list(self._running)
        for call in running:
            call.cancel()

    def within(self, timeout_s: float) -> "Operation":
        """Return an operation that is a part of this one: it stops with it, and has at most `timeout_s`."""
        part = Operation(min(timeout_s, self.remaining_s))
        self.track(_Part(part))
        return part

    def attempt(
        self, work: Callable[[], Result], turn: Callable[[HeadraceError], bool] = lambda _: False
    ) -> Result:
        """Run `work`, which may safely run twice, until it meets a server that serves, and is within its quota.

        Args:
            turn: Told why an attempt failed; lets the next one meet another server, and returns whether there is one.
        Raises:
            HeadraceError: What `work` raised; at the deadline, why the last attempt failed.
            Cancelled: The operation was stopped.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            self._check()
            try:
                return work()
            # A server that stops under a call ends it as cancelled; then another try is right too.
            except (Unavailable, TooManyCalls, Cancelled, NotPrimary) as error:
                if self._stopped.is_set():  # what a call meets then says nothing about its server
                    raise Cancelled(_STOPPED) from error
                elsewhere = turn(error)
                hopeless = isinstance(error, NotPrimary) and not elsewhere
                if hopeless or pause_s >= self.remaining_s:
                    raise
                self._stopped.wait(pause_s)
            except QuotaExceeded as error:  # of memory, which waiting does not bring, or of a rate
                if error.retry_after_s is None or error.retry_after_s >= self.remaining_s:
                    raise
                self._stopped.wait(error.retry_after_s)
                continue
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Cancelled(_STOPPED)
        if not self.remaining_s:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s; allow more time")
