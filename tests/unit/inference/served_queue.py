"""A queue whose workers run what they are given for as long as the test says; no threads, no time of its own."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from headrace.errors import HeadraceError
from headrace_inference.core.batch_queue import BatchQueue
from headrace_inference.core.batching import Batching, Request, Terms, Turn


def request(
    rows: int = 1,
    *,
    width: int = 2,
    deadline: float = math.inf,
    outputs: str = "y",
    caller: Hashable = "",
    priority: int = 0,
    timeout_s: float = 0.0,
) -> Request:
    x = np.full((rows, width), rows, np.float32)
    return Request({"x": x}, tuple(outputs), deadline, Terms(caller, priority, timeout_s))


class ServedQueue:
    """Remembers what runs, and what was dropped with which error."""

    def __init__(self, *, joins: bool = True, **batching: Any) -> None:
        self.batching = Batching(**batching)
        self.queue: BatchQueue[Request] = BatchQueue(self.batching, joins=joins)
        self.running: list[Turn[Request]] = []
        self.dropped: dict[Request, HeadraceError] = {}

    def offer(self, *requests: Request, now: float = 0) -> list[bool]:
        """Offer requests; tell of each whether it runs at once."""
        return [one in self._note(self.queue.offer(one, now)).batch for one in requests]

    def finish(self, *, now: float = 0, infer_s: float | None = None) -> list[Request]:
        """End the oldest batch; return the one that its worker runs next."""
        return list(self._note(self.queue.finish(self.running.pop(0), now, infer_s)).batch)

    def next_turn(self, now: float) -> list[Request]:
        """Let time pass; return what runs therefore."""
        return list(self._note(self.queue.next_turn(now)).batch)

    def serve(self, *, now: float = 0) -> list[list[Request]]:
        """Run all that waits, on one worker; return the batches."""
        batches = []
        while self.running:
            if batch := self.finish(now=now):
                batches.append(batch)
        return batches

    @property
    def cut(self) -> str:
        """Why the newest batch was cut."""
        return self.running[-1].cut.value

    def _note(self, turn: Turn[Request]) -> Turn[Request]:
        self.dropped |= {one.request: one.error for one in turn.dropped}
        if turn.batch:
            self.running.append(turn)
        return turn


def busy(*waiting: Request, joins: bool = True, **batching: Any) -> ServedQueue:
    """A queue whose workers each run something while `waiting` came in."""
    served = ServedQueue(joins=joins, **batching)
    served.offer(*(request() for _ in range(served.batching.workers)))
    served.offer(*waiting)
    return served
