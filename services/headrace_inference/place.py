"""One call's place in the engine: an answer that comes later, for whoever waits in a thread or is called back."""

import math
import threading
from collections.abc import Callable
from typing import Protocol

from headrace.errors import Cancelled, HeadraceError
from headrace.rpc.deferred import Deferred
from headrace_inference.core.batching import Arrays, Request, Terms, Turn


class Owner(Protocol):
    """What a place needs of its engine."""

    def lead(self, turn: "Turn[Place]") -> None:
        """Run a batch, in this thread."""

    def lead_elsewhere(self, turn: "Turn[Place]") -> None:
        """Run a batch, in another thread."""

    def withdraw(self, place: "Place", error: HeadraceError) -> None:
        """Settle a request that has not been taken yet."""


class Place(Request, Deferred[Arrays]):
    """A request and its answer.

    While it waits, or when it finds a worker free, it may be given a turn: the batch that its caller leads, of which it
    is one. A caller who calls `wait` leads it in his own thread, without a switch of threads; for one who calls `then`
    a thread of the engine does. One of both must be called, for a place can hold a worker.
    """

    def __init__(
        self, owner: Owner, inputs: Arrays, outputs: tuple[str, ...], deadline: float, terms: Terms
    ) -> None:
        Request.__init__(self, inputs, outputs, deadline, terms)
        Deferred.__init__(self)
        self._owner = owner
        self.entered = False  # it is or was in the queue, or ran at once
        self.gone = False  # its caller went away before
        self._turn: Turn[Place] | None = None
        self._gate: threading.Lock | None = None
        self._told = False  # its caller is called back: no thread of his comes

    def cancel(self) -> None:
        """Give the place up, if it still waits."""
        self._owner.withdraw(self, Cancelled("the caller went away before a worker was free"))

    def give(self, turn: "Turn[Place]") -> bool:
        """Let its caller lead a batch; return False if no thread of his comes."""
        with self._lock:
            if self._told:
                return False
            self._turn = turn
            self._wake()
        return True

    def wait(self) -> Arrays:
        """Return the answer as soon as it is there, or raise the error; until then, lead what there is to lead."""
        if not self.settled and self._turn is None:
            self._sleep()
        turn, self._turn = self._turn, None
        if turn is not None:
            self._owner.lead(turn)
        return super().wait()

    def then(self, callback: Callable[[], object]) -> None:
        """Call back once, in the thread that settles; at once if that has happened."""
        super().then(callback)
        with self._lock:
            self._told = True
            turn, self._turn = self._turn, None
        if turn is not None:
            self._owner.lead_elsewhere(turn)

    def _sleep(self) -> None:
        """Return when there is an answer, or a turn to lead."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self._turn is not None:
                return
            self._gate = gate
        super().then(self._settled)
        gate.acquire()

    def _settled(self) -> None:
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()


def deadline_in(timeout_s: float | None, now: float) -> float:
    """Return when a caller stops waiting."""
    return math.inf if timeout_s is None else now + timeout_s
