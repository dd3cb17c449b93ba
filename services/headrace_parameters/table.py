# length: one lock, and all that it keeps true of the stores together: names, room and files
"""The stores of one process, by name: who may make, replace and delete them, and how much memory they take."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import partial

from headrace.errors import (
    AlreadyExists,
    NotFound,
    QuotaExceeded,
    ServerDraining,
    ShardMapChanged,
    StaleEpoch,
)
from headrace.names import StoreName
from headrace.parameters.v1 import resharding_pb2, stores_pb2
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.kinds import Change
from headrace_parameters.journal.journal import Journal
from headrace_parameters.journal.shelf import Shelf
from headrace_parameters.live import LiveStore
from headrace_parameters.move import Move
from headrace_parameters.recovered import InDoubt, recovered
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.room import Room

RETRY_AFTER_S = 1.0
ANY_EPOCH = 1 << 64


class StoreTable:
    """All stores here.

    Args:
        max_stores: How many there may be.
        max_bytes: How much memory values and optimizer state of all may take.
        now: The time, for `create_time`.
        shelf: Where durable stores are kept.
        project_bytes: How much of `max_bytes` the stores of a project may take; 0: all.
    """

    def __init__(
        self,
        *,
        max_stores: int,
        max_bytes: int,
        now: Callable[[], datetime],
        shelf: Shelf,
        project_bytes: Callable[[str], int] = lambda _project: 0,
    ) -> None:
        self._shelf = shelf
        self._unclaimed: set[StoreName] = set()
        self.in_doubt: list[InDoubt] = []  # of those recovered
        self._max_stores = max_stores
        self._now = now
        self._lock = threading.Lock()
        self._stores: dict[StoreName, LiveStore] = {}
        self._room = Room(max_bytes, project_bytes)

    def get(self, name: StoreName) -> LiveStore:
        """Find a store; NotFound if it is not held here."""
        with self._lock:
            store = self._stores.get(name)
            self._unclaimed.discard(name)
        if store is None:
            raise NotFound(
                f"{name} is not held by this process; it was deleted, or lost with a process that ended: create it again"
            )
        return store

    def of_project(self, project: str) -> list[LiveStore]:
        """Return the stores of a project, by name."""
        with self._lock:
            return sorted(
                (store for name, store in self._stores.items() if name.project == project),
                key=lambda store: store.config.name,
            )

    def all(self) -> list[LiveStore]:
        """Return all stores of all projects."""
        with self._lock:
            return list(self._stores.values())

    def find_same(self, config: StoreConfig) -> LiveStore | None:
        """Return the store if it was made by the same request; None if there is none, or only an older epoch's.

        Raises:
            StaleEpoch: There is one of a newer epoch.
            AlreadyExists: There is another one of this epoch.
        """
        with self._lock:
            return self._find_same(config)

    def _find_same(self, config: StoreConfig) -> LiveStore | None:
        held = self._stores.get(config.name)
        self._unclaimed.discard(config.name)
        if held is None or held.config.epoch < config.epoch:
            return None
        if held.config.epoch > config.epoch:
            held.config.fence(config.epoch)
        if held.config != config:
            raise AlreadyExists(
                f"{config.name} exists with other settings in epoch {config.epoch}; use a greater epoch to replace it"
            )
        return held

    def create(
        self,
        config: StoreConfig,
        request: stores_pb2.CreateStoreRequest,
        prepare: Callable[[LiveStore], None],
    ) -> LiveStore:
        """Make a store, in the place of one of an older epoch, or return the same one.

        Args:
            request: What `config` was read from; a later process reads it again.
            prepare: Called with the new store before anyone else sees it.
        Raises:
            StaleEpoch, AlreadyExists: As `find_same`.
            QuotaExceeded: There are as many stores as there may be.
            FailedPrecondition, DataLoss, StorageFull: The store cannot be as durable as it shall be.
        """
        held = self.find_same(config)
        if held:
            return held
        kind = ReplicatedStore if config.durability.replicated else LiveStore
        store = kind(config, self._now(), reserve_rows=partial(self.reserve_rows, config.name))
        with ExitStack() as unless_placed:
            unless_placed.callback(self._keep_rows, config.name)
            prepare(store)
            if config.durability.logged:
                journal = self._shelf.create(config, request, store.create_time)
                unless_placed.callback(journal.destroy)
                store.keep(journal)
            with self._lock:
                held = self._find_same(config)
                if held:
                    return held
                old = self._put(store)
            unless_placed.pop_all()
        self._retire(old, config)
        store.open()
        return store

    def _retire(self, old: LiveStore | None, config: StoreConfig) -> None:
        """Let go of the store that another took the place of, and of the files of older epochs."""
        if old:
            old.end(
                StaleEpoch(
                    f"{config.name} was replaced by epoch {config.epoch}; stop, a newer attempt runs",
                    metadata={"epoch": config.epoch},
                )
            )
            self._keep_rows(config.name)
            old.forget_files()
        self._shelf.remove(config.name, config.epoch - 1)

    def recover(self) -> list[LiveStore]:
        """Hold again what a former process of this folder held; return it."""
        for found in self._shelf.recover():
            store = recovered(found, partial(self.reserve_rows, found.config.name))
            if found.following:
                self.in_doubt.append(InDoubt(store, found.following))
            with self._lock:
                self._hold(store, store.tables.sizes())
                self._unclaimed.add(found.config.name)
        return self.all()

    def sweep(self) -> list[StoreName]:
        """Delete the recovered stores nobody has asked for since, and the files that cannot be trusted; return their names."""
        with self._lock:
            unclaimed = [self._stores[name] for name in self._unclaimed if name in self._stores]
        for store in unclaimed:
            self.delete(store.config.name, store.config.epoch)
        refused = self._shelf.refused()
        for name, epoch in refused:
            self._shelf.remove(name, epoch)
        return [store.config.name for store in unclaimed] + [name for name, _ in refused]

    def _put(self, store: LiveStore) -> LiveStore | None:
        """Hold a store from now on; return the one it replaces."""
        name = store.config.name
        if name not in self._stores and len(self._stores) >= self._max_stores:
            raise QuotaExceeded(
                f"this process holds {self._max_stores} stores already; delete one or raise HEADRACE_PARAMETERS_SLOTS"
            )
        self._room.check(name, store.size_bytes)
        old = self._stores.get(name)
        if store.journal:
            self._shelf.place(store.config, store.journal)
        self._unclaimed.discard(name)
        self._hold(store, store.tables.sizes())
        return old

    def _hold(self, store: LiveStore, rows: Mapping[str, int]) -> None:
        name = store.config.name
        self._stores[name] = store
        self._room.keep(name, store.size_bytes)
        self._room.keep_rows(name, rows)

    def replace(self, old: LiveStore, new: LiveStore, move: Move) -> None:
        """Hold another in the place of a store, one that goes by a newer shard map.

        Raises:
            NotFound, HeadraceError: The old one is not held any more, or has ended; nothing has changed.
        """
        name, shard_map, rows = old.config.name, new.map, new.tables.sizes()
        assert shard_map is not None

        def swap() -> None:
            with self._lock:
                if self._stores.get(name) is not old:
                    raise NotFound(f"{name} was deleted or replaced while its values moved")
                if new.journal:
                    old.keep_in(old.journal, new.journal)  # whichever of them a restart finds
                    self._shelf.place(new.config, new.journal, shard_map.epoch)
                    new.keep_in(new.journal, kept=True)
                self._hold(new, rows)
            old.followed_by(new)

        move.hand_over(
            swap,
            ShardMapChanged(
                f"{name} has shard map {shard_map.epoch} now; nothing was applied: get the store, then repeat the call",
                metadata={"map_epoch": shard_map.epoch},
            ),
        )

    def stage(
        self, store: LiveStore, plan: resharding_pb2.Hold, following: LiveStore, changes: Iterable[Change]
    ) -> Journal | None:
        """Make the files with which `following` may take the place of a store, as `Shelf.stage`; None: it has none."""
        if not store.journal:
            return None
        # Taken anew, rows too: the next snapshots count evictions from what is here, not from where it came from.
        state = following.state() if following.published else None
        return self._shelf.stage(store.config, store.journal, plan, state, changes)

    def reserve_bytes(self, store: LiveStore, needed: int) -> None:
        """Keep room for values and optimizer state of a store, which had less; QuotaExceeded if there is none."""
        with self._lock:
            self._room.check(store.config.name, needed)
            if self._stores.get(store.config.name) is store:
                self._room.keep(store.config.name, needed)

    def keep(self, store: LiveStore) -> None:
        """Keep room for what a store has, rows included, and no more."""
        name, rows = store.config.name, store.tables.sizes()
        with self._lock:
            if self._stores.get(name) is store:
                self._hold(store, rows)

    def _keep_rows(self, name: StoreName) -> None:
        """Keep room for the rows that a store of this name has now, if there is one: others have reserved by its name until they ended."""
        with self._lock:
            store = self._stores.get(name)
        rows = store.tables.sizes() if store else {}
        with self._lock:
            if self._stores.get(name) is store:
                self._room.keep_rows(name, rows)

    def reserve_rows(self, name: StoreName, table: str, needed: int) -> None:
        """Keep room for all rows of a table; QuotaExceeded if there is none."""
        with self._lock:
            self._room.reserve_rows(name, table, needed)

    def delete(self, name: StoreName, epoch: int) -> None:
        """Forget a store, if its epoch is `epoch` or older; 0: whatever it is.

        Raises:
            NotFound: It is not held here.
            StaleEpoch: It belongs to a newer epoch.
        """
        with self._lock:
            held = name in self._stores
        if not held and self._shelf.remove(name, epoch or ANY_EPOCH):
            return  # files that could not be trusted
        store = self.get(name)
        if epoch and epoch < store.config.epoch:
            store.config.fence(epoch)
        with self._lock:
            if self._stores.get(name) is store:
                del self._stores[name]
                self._room.forget(name)
        store.end(NotFound(f"{name} was deleted"))
        self._keep_rows(name)  # after: until then a push may have reserved some
        store.forget_files()

    def drain(self) -> None:
        """Make every waiting call return: the process is about to stop."""
        for store in self.all():
            store.end(ServerDraining("the parameter process is about to stop", retry_after_s=RETRY_AFTER_S))

    def close(self) -> None:
        """Let go of the files of all stores, after `drain`; the next process of the folder recovers them."""
        for store in self.all():
            if store.journal:
                store.journal.close()
        self._shelf.close()
