"""Models that were unloaded to make room for others: they are loaded again when somebody asks for them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from headrace.errors import HeadraceError, Unavailable
from headrace_inference.core.catalog import Key, Listing, Source, State

log = structlog.get_logger()

REASON = "unloaded to make room for others; it is loaded again when it is asked for"
RETRY_AFTER_S = 0.5  # about as long as a load takes of a model that is in the cache


class Evicted:
    """What was evicted; thread-safe.

    Args:
        load_again: Loads a model, in a thread of its own; may raise `HeadraceError`.
    """

    def __init__(self, load_again: Callable[[Key, Source], None]) -> None:
        self._load_again = load_again
        self._sources: dict[Key, Source] = {}
        self._coming: set[Key] = set()
        self._lock = threading.Lock()
        # One at a time: each that comes may have to evict others.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="load-again")

    def add(self, key: Key, source: Source) -> None:
        """Remember what a model was loaded from."""
        with self._lock:
            self._sources[key] = source

    def forget(self, key: Key) -> bool:
        """Forget a model that is loaded again, or no longer wished; return whether it was known."""
        with self._lock:
            return self._sources.pop(key, None) is not None

    def knows(self, key: Key, source: Source) -> bool:
        """Tell whether a model is to come back, and from there."""
        with self._lock:
            return self._sources.get(key) == source

    def listings(self, project: str | None) -> list[Listing]:
        """List them as the repository index does."""
        with self._lock:
            found = sorted(self._sources.items())
        return [
            Listing(key, source, State.UNAVAILABLE, REASON)
            for key, source in found
            if project in (None, key.project)
        ]

    def ask(self, key: Key) -> Unavailable | None:
        """Have a model loaded again; return what its caller is told, None if it was not evicted."""
        with self._lock:
            source = self._sources.get(key)
            if source is None:
                return None
            if key not in self._coming:
                self._coming.add(key)
                self._threads.submit(self._load, key, source)
        return Unavailable(
            f"model {key.model!r} was unloaded to make room and is being loaded again; send again shortly",
            retry_after_s=RETRY_AFTER_S,
        )

    def _load(self, key: Key, source: Source) -> None:
        try:
            self._load_again(key, source)
        except HeadraceError as error:
            log.warning("load_again_failed", project=key.project, model=key.model, reason=error.message)
        except Exception:  # the top of a task
            log.exception("load_again_failed", project=key.project, model=key.model)
            raise
        finally:
            with self._lock:
                self._coming.discard(key)
