"""Streams of changes that survive a restart of the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.client.retries import Retries
from headrace.errors import Cancelled, DeadlineExceeded, TooManyCalls, Unavailable

if TYPE_CHECKING:
    import grpc

OUTAGE_S = 60.0  # a scheduler that is restarted, its database included, is back long before

# A server that stops under a stream ends it as cancelled.
_TRANSIENT = (Unavailable, TooManyCalls, Cancelled)

Request = TypeVar("Request")
Response = TypeVar("Response")


class _Following:
    """One stream, opened again as often as it breaks."""

    def __init__(self, name: str, timeout_s: float | None, waits: Callable[[Any], str]) -> None:
        self._name = name
        self._waits = waits
        self._why = ""
        self._timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s
        self._retries = Retries(OUTAGE_S)

    def heard(self, response: object) -> None:
        """Take note of a response."""
        self._retries.succeeded()
        self._why = self._waits(response)

    def remaining_s(self) -> float | None:
        """Return the deadline of the next call.

        Raises:
            DeadlineExceeded: There is no time for one.
        """
        if self._end is None:
            return None
        remaining_s = self._end - time.monotonic()
        if remaining_s <= 0:
            raise self.too_late()
        return remaining_s

    def pause_after(self, error: Unavailable | TooManyCalls | Cancelled | None) -> float:
        """Return how long to wait before the stream is opened again; None: it just ended."""
        return self._retries.pause_after(
            error or Unavailable(f"the scheduler stopped telling about {self._name}; ask again")
        )

    def too_late(self) -> DeadlineExceeded:
        why = f" ({self._why})" if self._why else ""
        return DeadlineExceeded(
            f"{self._name} was not done within {self._timeout_s:g} s{why}; it goes on: wait again, or allow more time"
        )


def _nothing(_response: object) -> str:
    return ""


def follow(
    method: grpc.UnaryStreamMultiCallable[Request, Response],
    request: Request,
    name: str,
    timeout_s: float | None,
    waits: Callable[[Response], str] = _nothing,
) -> Generator[Response, None, None]:
    """Yield what a watching rpc sends, and call it again when it breaks, until the caller has enough.

    After a break, what was sent last comes again.

    Args:
        name: What is watched, for errors.
        timeout_s: Time for all of it; None: no limit.
        waits: Says what the response still waits for, or nothing, for errors.
    Raises:
        DeadlineExceeded: The time is over.
        Unavailable: The scheduler was away for longer than `OUTAGE_S`.
    """
    following = _Following(name, timeout_s, waits)
    while True:
        call: Any = method(request, timeout=following.remaining_s())
        error = None
        try:
            for response in call:
                following.heard(response)
                yield response
        except DeadlineExceeded:
            raise following.too_late() from None
        except _TRANSIENT as broken:
            error = broken
        finally:
            call.cancel()
        time.sleep(following.pause_after(error))


async def follow_async(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
    request: Request,
    name: str,
    timeout_s: float | None,
    waits: Callable[[Response], str] = _nothing,
) -> AsyncGenerator[Response, None]:
    """Do as `follow`."""
    following = _Following(name, timeout_s, waits)
    while True:
        error = None
        try:
            async for response in method(request, timeout=following.remaining_s()):
                following.heard(response)
                yield response
        except DeadlineExceeded:
            raise following.too_late() from None
        except _TRANSIENT as broken:
            error = broken
        await asyncio.sleep(following.pause_after(error))
