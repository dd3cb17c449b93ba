"""How a part of a store learns that a change is as safe as the store promises, so that others may know of it."""

import weakref
from typing import Protocol

Positions = tuple[int, ...]


class Kept(Protocol):
    """A store whose changes must have followed somewhere before anyone is told."""

    def positions(self) -> Positions:
        """Say how far everything is that must follow; under the lock of whoever changes the store."""

    def wait_until_safe(self, positions: Positions) -> None:
        """Return when everything has followed as far; raise why it will not."""


class Safety:
    """A store's promise, for its tables. The store is referred to weakly: its memory goes with its last user."""

    def __init__(self, store: Kept | None = None) -> None:
        self._store = weakref.ref(store) if store else lambda: None

    def positions(self) -> Positions:
        """As `Kept.positions`."""
        store = self._store()
        return store.positions() if store else ()

    def wait(self, positions: Positions) -> None:
        """As `Kept.wait_until_safe`."""
        store = self._store()
        if store and positions:
            store.wait_until_safe(positions)
