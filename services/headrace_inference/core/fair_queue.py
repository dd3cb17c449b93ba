"""The waiting requests of one priority level: callers share it fairly, and shapes do not starve each other.

Start-time fair queueing (Goyal, Vin and Cheng 1996, "Start-time fair queueing"): a request is tagged, when it comes, with
the virtual time at which it would begin if each caller were served row by row in turn:

    tag = max(virtual time, end of the caller's request before);   end = tag + rows

Batches are led by the smallest tag, whatever its shape, and the virtual time is that tag. So a caller with one request
goes before one with five hundred, who is no later than his part of the rows says; and a request of a rare shape leads as
soon as no tag is smaller, which those that come later cannot prevent: their tags are not.
"""

import math
from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic

from headrace_inference.core.batching import R
from headrace_inference.core.heap import RequestHeap

SLACK = 64  # callers who wait for nothing, and stale heads of lines, that are kept before they are swept out


class _Caller(Generic[R]):
    """The requests of one caller that wait, and where the next one's tag begins."""

    def __init__(self) -> None:
        self.end = 0.0
        self.rows = 0
        self.waiting: dict[R, None] = {}


class _Line(Generic[R]):
    """The requests of one kind."""

    def __init__(self) -> None:
        self.requests: RequestHeap[R] = RequestHeap()
        self.rows = 0
        self.head: R | None = None  # the one that was put among the heads last


class FairQueue(Generic[R]):
    """The requests of one level; every step takes O(log n)."""

    def __init__(self) -> None:
        self.rows = 0
        self.count = 0
        self._active = 0  # callers who have something that waits
        self._virtual_time = 0.0
        self._callers: dict[Hashable, _Caller[R]] = {}
        self._lines: dict[Hashable, _Line[R]] = {}
        # The first request of every line, among some that are the first no longer.
        self._heads: list[tuple[float, int, R]] = []

    @property
    def kinds(self) -> int:
        """How many kinds of requests wait."""
        return len(self._lines)

    def rows_of(self, kind: Hashable) -> int:
        """Return how many rows of a kind wait."""
        line = self._lines.get(kind)
        return line.rows if line else 0

    def push(self, request: R) -> None:
        """Put a request in."""
        caller = self._caller(request)
        request.tag = max(self._virtual_time, caller.end)
        caller.end = request.tag + max(1, request.rows)
        self._active += not caller.waiting
        caller.waiting[request] = None
        caller.rows += request.rows
        self._put(request)

    def delay(self, request: R, number: int) -> None:
        """Put a request behind all others, whatever comes later; it stays in the order of the delayed ones."""
        self._take_out(request)
        request.waiting, request.number, request.tag = True, number, math.inf
        self._put(request)

    def remove(self, request: R) -> None:
        """Take a request out that does not run; its caller is not charged for it, if it was his last."""
        caller = self._callers[request.terms.caller]
        if caller.end == request.tag + max(1, request.rows):
            caller.end = request.tag
        self._leave(request, caller)

    def lead(self) -> R | None:
        """Return the request whose turn it is, without taking it."""
        while self._heads:
            _, number, request = self._heads[0]
            if request.waiting and request.number == number:
                return request
            heappop(self._heads)
            # Whoever stands first in that line now may be no head yet, for he was not first when he came.
            line = self._lines.get(request.kind)
            first = self.first_of(request.kind)
            if line and first and line.head is not first:
                self._set_head(line, first)
        return None

    def first_of(self, kind: Hashable) -> R | None:
        """Return the request of a kind whose turn it is, without taking it."""
        line = self._lines.get(kind)
        first = line.requests.first() if line else None
        return first[1] if first else None

    def take(self, request: R) -> None:
        """Take a request out that runs."""
        if self._virtual_time < request.tag < math.inf:
            self._virtual_time = request.tag
        self._leave(request, self._callers[request.terms.caller])

    def place_for(self, request: R) -> R | None:
        """Return the request that gives up its place for a new one when the queue is full.

        It is the newest of the caller who has most, if the caller of the new one has fewer even with it; else None.
        """
        own = self._callers.get(request.terms.caller)
        greediest = max(self._callers.values(), key=_waiting, default=None)
        if greediest is None or len(greediest.waiting) <= (len(own.waiting) if own else 0) + 1:
            return None
        return next(reversed(greediest.waiting))

    def last(self) -> R:
        """Return the newest request of the caller who has most."""
        return next(reversed(max(self._callers.values(), key=_waiting).waiting))

    def rows_before(self, request: R) -> int:
        """Return about how many rows run before a new request: all that wait now, or less if its caller has few of them.

        If all callers who wait had as much as its own, or more, he would have an equal part of the rows. That may be more than
        waits now, for under load what others send later runs before it as well; but hardly twice as much.
        """
        own = self._callers.get(request.terms.caller)
        if own is None or not own.waiting:
            return min(request.rows * self._active, 2 * self.rows)
        return min((own.rows + request.rows) * self._active - request.rows, 2 * self.rows)

    def _caller(self, request: R) -> _Caller[R]:
        if not self.count:
            self._callers.clear()  # nobody waits: nobody owes anything
        elif len(self._callers) > 2 * self.count + SLACK:
            self._callers = {name: caller for name, caller in self._callers.items() if caller.waiting}
        caller = self._callers.get(request.terms.caller)
        if caller is None:
            caller = self._callers[request.terms.caller] = _Caller()
            caller.end = self._virtual_time
        return caller

    def _put(self, request: R) -> None:
        line = self._lines.get(request.kind)
        if line is None:
            line = self._lines[request.kind] = _Line()
        first = line.requests.first()
        line.requests.push(request.tag, request)
        line.rows += request.rows
        self.rows += request.rows
        self.count += 1
        if first is None or request.tag < first[0]:
            self._set_head(line, request)

    def _set_head(self, line: _Line[R], request: R) -> None:
        line.head = request
        heappush(self._heads, (request.tag, request.number, request))
        if len(self._heads) > 2 * len(self._lines) + SLACK:
            self._sweep_heads()

    def _sweep_heads(self) -> None:
        self._heads = []
        for line in self._lines.values():
            first = line.requests.first()
            assert first is not None, "a line without requests has been deleted"
            line.head = first[1]
            self._heads.append((first[0], first[1].number, first[1]))
        heapify(self._heads)

    def _leave(self, request: R, caller: _Caller[R]) -> None:
        del caller.waiting[request]
        caller.rows -= request.rows
        self._active -= not caller.waiting
        self._take_out(request)

    def _take_out(self, request: R) -> None:
        request.waiting = False
        line = self._lines[request.kind]
        line.requests.left()
        line.rows -= request.rows
        if line.head is request:
            line.head = None
        self.rows -= request.rows
        self.count -= 1
        if not len(line.requests):
            del self._lines[request.kind]


def _waiting(caller: _Caller[R]) -> int:
    return len(caller.waiting)
