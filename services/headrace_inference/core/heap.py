"""Requests in the order of some key, from which any may leave at any time."""

from heapq import heapify, heappop, heappush
from typing import Generic

from headrace_inference.core.batching import R

SLACK = 16  # entries of requests that are gone, beyond the number of the others, before they are swept out


class RequestHeap(Generic[R]):
    """Requests by key, those of one key by number.

    A request that has left the queue (`waiting` is false), or was put in again under another number, is passed over when
    its turn comes. At most about half of the entries are such, so leaving costs O(1) in the mean, all else O(log n).
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, R]] = []
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, key: float, request: R) -> None:
        """Put a request in; the key must not change while it is inside."""
        heappush(self._entries, (key, request.number, request))
        self._live += 1

    def left(self) -> None:
        """Take note that one of the requests is gone."""
        self._live -= 1
        if len(self._entries) > 2 * self._live + SLACK:
            self._entries = [entry for entry in self._entries if _stands(entry)]
            heapify(self._entries)

    def first(self) -> tuple[float, R] | None:
        """Return the smallest key and its request, without taking it."""
        entries = self._entries
        while entries:
            key, number, request = entries[0]
            if request.waiting and request.number == number:
                return key, request
            heappop(entries)
        return None


def _stands(entry: tuple[float, int, R]) -> bool:
    _, number, request = entry
    return request.waiting and request.number == number
