"""One request to all shards of a store: its deadline, its retries, and the way to stop it."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from headrace.errors import (
    Cancelled,
    DeadlineExceeded,
    HeadraceError,
    NotFound,
    NotPrimary,
    QuotaExceeded,
    TooManyCalls,
    Unavailable,
)
from headrace.pauses import Pauses

# A shard that was killed is back within seconds, and its workers wait for it.
_PAUSES = Pauses(first_s=0.05, longest_s=0.25)

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
        pauses = iter(_PAUSES)
        failure: HeadraceError | None = None
        while True:
            self._check(failure)
            try:
                return work()
            except HeadraceError as error:
                if self._stopped.is_set():  # what a call meets then says nothing about its server
                    raise Cancelled(_STOPPED) from error
                pause_s = _pause_after(error, pauses, turn)
                if pause_s is None or pause_s >= self.remaining_s:
                    raise
                failure = error
            self._stopped.wait(pause_s)

    def _check(self, failure: HeadraceError | None) -> None:
        if self._stopped.is_set():
            raise Cancelled(_STOPPED)
        if not self.remaining_s:  # a pause may take longer than it was to
            if failure:
                raise failure
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s; allow more time")


def _pause_after(
    error: HeadraceError, pauses: Iterator[float], turn: Callable[[HeadraceError], bool]
) -> float | None:
    """Return the seconds until another try, after letting it meet another server if there is one; None: it would be in vain."""
    if isinstance(error, QuotaExceeded):
        return error.retry_after_s  # of a rate; None: of memory, which waiting does not bring
    # A server that stops under a call ends it as cancelled; then another try is right too.
    if not isinstance(error, Unavailable | TooManyCalls | Cancelled | NotPrimary | NotFound):
        return None
    elsewhere = turn(error)
    return None if isinstance(error, NotPrimary | NotFound) and not elsewhere else next(pauses)
