"""Remembering the first answer to a request id in memory, for services without a database."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable

from headrace.errors import RequestIdReused

Key = tuple[str, str, str]


class Replays:
    """The newest `limit` answers. `headrace.database.RememberedRequests` is the twin that survives a restart."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._answers: OrderedDict[Key, tuple[bytes, bytes]] = OrderedDict()
        self._working: set[Key] = set()
        self._changed = threading.Condition()

    def remember(
        self, *, method: str, project: str, request_id: str, body: bytes, produce: Callable[[], bytes]
    ) -> bytes:
        """Return the answer to a request: the remembered one, or what `produce` returns, which is then remembered.

        The second of two simultaneous requests waits for the first. An answer that is an exception is not remembered.

        Args:
            request_id: The caller's; empty means that this request is not repeated, so nothing is remembered.
            body: The serialized request.
        Raises:
            RequestIdReused: The id came before with another body.
        """
        if not request_id:
            return produce()
        key = (method, project, request_id)
        digest = hashlib.sha256(body).digest()
        known = self._answer_or_turn(key)
        if known is not None:
            if known[0] != digest:
                raise reused(method, request_id)
            return known[1]
        try:
            answer = produce()
        except BaseException:
            self._finish(key, None)
            raise
        self._finish(key, (digest, answer))
        return answer

    def _answer_or_turn(self, key: Key) -> tuple[bytes, bytes] | None:
        """Return the remembered answer; None if there is none and the caller is the one to produce it."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._working)
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
            self._working.add(key)
            return None

    def _finish(self, key: Key, answer: tuple[bytes, bytes] | None) -> None:
        with self._changed:
            self._working.discard(key)
            if answer is not None:
                self._answers[key] = answer
                while len(self._answers) > self._limit:
                    self._answers.popitem(last=False)
            self._changed.notify_all()


def reused(method: str, request_id: str) -> RequestIdReused:
    """Return the error for an id that came before with another body."""
    return RequestIdReused(
        f"request_id {request_id!r} was used for another {method} request; give every new request an id of its own",
        field="request_id",
    )
