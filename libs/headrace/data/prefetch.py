"""Read in the background what is wanted next, so that who computes does not wait for who reads."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

AHEAD = 3  # values: enough for a block to be read while the batches before it are computed with


class Prefetcher(Generic[Key, Value]):
    """Loads values in one thread of its own, in the order in which they are asked for or expected."""

    def __init__(self, load: Callable[[Key], Value]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._loading: dict[Key, Future[Value]] = {}

    def get(self, key: Key, expected: Sequence[Key]) -> Value:
        """Return the value of `key`, and go on with `expected`; what was expected before and is not any more is dropped.

        Raises:
            Exception: Whatever `load` raises for this key; for an expected one only when that is asked for.
        """
        wanted = (key, *expected)
        for other in self._loading.keys() - set(wanted):
            self._loading.pop(other).cancel()
        for each in wanted:
            if each not in self._loading:
                self._loading[each] = self._thread.submit(self._load, each)
        return self._loading.pop(key).result()


def ahead(values: Iterator[Value]) -> Iterator[Value]:
    """Yield the values of an iterator that is advanced in another thread, one value early."""
    end = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = thread.submit(next, values, end)
        while (value := waiting.result()) is not end:
            waiting = thread.submit(next, values, end)
            yield value  # type: ignore[misc]  # the end is no value, and has just been told from one
