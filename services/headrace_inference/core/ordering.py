"""In which order the answers on a stream leave: those of a request after those of the requests before it.

A request that is freed of the order has its answers leave as they come, and nobody waits for it. Nothing here locks: the caller does.
"""

from collections import deque
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Place(Generic[Answer]):
    """One request's place in the line."""

    def __init__(self) -> None:
        self.held: list[Answer] = []
        self.done = False
        self.free = False


class Line(Generic[Answer]):
    """The requests of one stream whose answers have not all left.

    Every change returns what leaves now; a None among the answers says that one more request is done.
    """

    def __init__(self) -> None:
        self._places: deque[Place[Answer]] = deque()

    def enter(self) -> Place[Answer]:
        """Take in the next request."""
        place: Place[Answer] = Place()
        self._places.append(place)
        return place

    def free(self, place: Place[Answer]) -> list[Answer | None]:
        """Free a request of the order."""
        self._places.remove(place)
        place.free = True
        left: list[Answer | None] = [*place.held]
        return left + self._pass_on()

    def give(self, place: Place[Answer], *answers: Answer, done: bool) -> list[Answer | None]:
        """Take the next answers to a request; if it is `done`, no more follow."""
        if place.free:
            return [*answers, None] if done else [*answers]
        place.held += answers
        place.done = done
        return self._pass_on()

    def _pass_on(self) -> list[Answer | None]:
        left: list[Answer | None] = []
        while self._places:
            first = self._places[0]
            left += first.held
            first.held = []
            if not first.done:
                break
            left.append(None)
            self._places.popleft()
        return left
