"""The news of a store, for which calls wait in threads of their own."""

import threading
from collections.abc import Callable
from typing import TypeVar

from headrace.errors import HeadraceError

Found = TypeVar("Found")


class News:
    """Wakes whoever waits when something has changed; after `end` nobody waits any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ended: HeadraceError | None = None

    def tell(self, change: Callable[[], object]) -> None:
        """Make a change, one at a time, and wake all."""
        with self._changed:
            change()
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiting call look again."""
        self.tell(lambda: None)

    def end(self, why: HeadraceError) -> None:
        """Make every call end with `why`, those that wait first."""
        self._ended = why
        self.wake()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._ended is None

    def check_alive(self) -> None:
        """Raise why the store has ended, if it has."""
        if self._ended:
            # A fresh one each time: an exception that is raised in several threads mixes up their tracebacks.
            raise type(self._ended)(
                self._ended.message, metadata=self._ended.metadata, retry_after_s=self._ended.retry_after_s
            )

    def wait_for(self, find: Callable[[], Found], timeout_s: float, over: Callable[[], bool]) -> Found:
        """Return what `find` does, as soon as that is something; or in time, or when waiting has no more sense.

        Args:
            over: Whether it has none; asked again at every change, as is `find`, whose last answer is returned.
        Raises:
            HeadraceError: Why the store ended meanwhile.
        """
        found: Found

        def look() -> bool:
            nonlocal found
            found = find()
            return bool(self._ended or found or over())

        with self._changed:
            self._changed.wait_for(look, timeout_s)
        self.check_alive()
        return found
