# length: the folders of stores, and all ways in which they come and go
"""The folder in which one process keeps its durable stores: `<project>/<store>/<epoch>/`, or `<epoch>.<map epoch>/`, each with a manifest.

A store's folder is made under another name and renamed when it is complete, so that what has the name is whole.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from headrace.errors import DataLoss, FailedPrecondition, HeadraceError, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.v1 import resharding_pb2, stores_pb2
from headrace.parameters.wire import layout_from_proto, map_from_proto
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.kinds import Change
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.checked_json import read_json, write_json
from headrace_parameters.journal.files import TEMPORARY, storage_error, sync_folder
from headrace_parameters.journal.folders import REMOVED, STAGED, Generation, find_folders, remove_folder
from headrace_parameters.journal.journal import Journal, Limits, Observers
from headrace_parameters.journal.recovery import recover
from headrace_parameters.published_memory import PublishedMemory

if TYPE_CHECKING:
    from headrace_parameters.core.rows.shard import RowShard

_MANIFEST = "manifest.json"
_PLAN = "plan.json"
_LOCK = "lock"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """A store that a former process left here, with everything that was acknowledged.

    Args:
        plan: By which it came to its shard map; None: it has its first one.
        following: What it has staged for the next map; it knows not whether that was decided.
    """

    config: StoreConfig
    create_time: datetime
    shard: Shard
    journal: Journal
    memory: PublishedMemory
    tables: "Mapping[str, RowShard]"
    plan: resharding_pb2.Hold | None = None
    following: "Found | None" = None


class Shelf:
    """Makes, finds and removes the folders of stores.

    Args:
        folder: This process's alone; made when the first durable store is.
        read_config: Checks a request, as for CreateStore.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        read_config: Callable[[stores_pb2.CreateStoreRequest], StoreConfig],
        observers: Observers | None = None,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._read_config = read_config
        self._observers = observers or Observers()
        self._lock: int | None = None
        self._refused: dict[StoreName, tuple[int, str]] = {}

    def create(
        self, config: StoreConfig, request: stores_pb2.CreateStoreRequest, create_time: datetime
    ) -> Journal:
        """Make the files of a new store, which nobody finds before they are placed.

        Raises:
            FailedPrecondition: Another process uses the folder.
            DataLoss: There are files of this very store that cannot be trusted.
            StorageFull: There is no room.
        """
        self._take()
        epoch, why = self._refused.get(config.name, (0, ""))
        if config.epoch <= epoch:
            raise DataLoss(why)
        made = self._parent(config.name) / f"{config.epoch}.{uuid.uuid4().hex}{TEMPORARY}"
        try:
            made.mkdir(parents=True, mode=0o700)
            _write_manifest(made / _MANIFEST, request, create_time)
            return Journal(made, config, self._limits, self._observers)
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            raise storage_error(error, f"the files of {config.name}") from error

    def place(self, config: StoreConfig, journal: Journal, map_epoch: int = 1) -> None:
        """Give the files of a new store, or of its next self, their name: from now on a restart finds them.

        Raises:
            StorageFull, DataLoss: It may find them until they are destroyed.
        """
        parent = self._parent(config.name)
        if map_epoch == 1:
            for staged in find_folders(parent).staged:  # by a store of the same epoch that was deleted
                remove_folder(parent / f"{staged}{STAGED}")
        try:
            journal.move(parent / str(Generation(config.epoch, map_epoch)))
        except OSError as error:
            raise storage_error(error, f"the files of {config.name}") from error

    def stage(
        self,
        config: StoreConfig,
        journal: Journal,
        plan: resharding_pb2.Hold,
        state: ShardState | None,
        changes: Iterable[Change],
    ) -> Journal:
        """Make the files of a store's next self, which a restart finds beside those of `journal` until they are placed.

        Args:
            state: None: it will have no values.
            changes: What has come since then.
        Raises:
            StorageFull, DataLoss: They cannot be, and are not there.
        """
        staged = Generation(config.epoch, plan.next.epoch)
        made = self._parent(config.name) / f"{staged}.{uuid.uuid4().hex}{TEMPORARY}"
        try:
            made.mkdir(mode=0o700)
            _write_manifest(made / _MANIFEST, *_read_manifest(journal.folder / _MANIFEST))
            write_json(made / _PLAN, MessageToDict(plan))
            following = Journal(made, config, self._limits, self._observers)
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            raise storage_error(error, f"the files of {config.name}") from error
        with ExitStack() as unless_staged:
            unless_staged.callback(following.destroy)
            if state:
                following.rebase(state)
            for change in changes:
                following.append(Sealed.of(change))
            following.wait(following.position)
            try:
                following.move(self._parent(config.name) / f"{staged}{STAGED}")
            except OSError as error:
                raise storage_error(error, f"the files of {config.name}") from error
            unless_staged.pop_all()
        return following

    def remove(self, name: StoreName, epoch: int) -> bool:
        """Remove the files of a store of this epoch and of older ones; return whether there were any."""
        if self._lock is None:
            return False  # what there may be is another process's
        parent = self._parent(name)
        found = find_folders(parent)
        held = [str(each) for each in found.placed if each.epoch <= epoch]
        held += [f"{each}{STAGED}" for each in found.staged if each.epoch <= epoch]
        for folder in held:
            remove_folder(parent / folder)
        if name in self._refused and self._refused[name][0] <= epoch:
            del self._refused[name]
        return bool(held)

    def refused(self) -> list[tuple[StoreName, int]]:
        """List the stores, with their epochs, whose files cannot be trusted."""
        return [(name, epoch) for name, (epoch, _) in self._refused.items()]

    def recover(self) -> Iterator[Found]:
        """Yield the stores that were left here, newest epoch of each; sweep what was half-made or half-removed."""
        if not self._folder.is_dir():
            return
        try:
            self._take()
        except FailedPrecondition as error:
            log.warning("folder_not_recovered", why=error.message)
            return
        for parent in sorted(path for path in self._folder.glob("*/*") if path.is_dir()):
            _sweep(parent)
            folders = find_folders(parent)
            for old in folders.placed[:-1]:
                remove_folder(parent / str(old))
            for staged in folders.staged:
                if staged != folders.in_doubt:
                    remove_folder(parent / f"{staged}{STAGED}")
            for newest in folders.placed[-1:]:
                yield from self._recover_all(parent, newest, folders.in_doubt)

    def _recover_all(self, parent: Path, newest: Generation, staged: Generation | None) -> Iterator[Found]:
        name = StoreName(parent.parent.name, parent.name)
        try:
            found = self._recover(parent / str(newest), name, newest)
            if staged:
                following = self._recover(parent / f"{staged}{STAGED}", name, staged)
                found = replace(found, following=following)
            yield found
        except (HeadraceError, OSError) as error:
            self._refused[name] = newest.epoch, str(error)
            log.error("store_not_recovered", store=str(name), epoch=newest.epoch, why=str(error))

    def _recover(self, folder: Path, name: StoreName, generation: Generation) -> Found:
        began = time.perf_counter()
        request, create_time = _read_manifest(folder / _MANIFEST)
        config, plan = self._read_config(request), _read_plan(folder)
        if (config.name, config.epoch) != (name, generation.epoch):
            raise DataLoss(f"{folder} holds {config.name} of epoch {config.epoch}; was it moved?")
        memory = PublishedMemory()
        found = recover(folder, config, memory)
        if plan and config.shard_index not in map_from_proto(plan.next).shards:  # it has left
            found.shard.layout, found.shard.map = layout_from_proto(plan.tensors), map_from_proto(plan.next)
        seconds = time.perf_counter() - began
        self._observers.recovery(seconds)
        log.info(
            "store_recovered",
            store=str(name),
            epoch=config.epoch,
            map_epoch=generation.map_epoch,
            version=found.shard.published.version if found.shard.published else None,
            changes_replayed=found.changes,
            bytes_cut=found.cut_bytes,
            damage_avoided=found.notes,
            seconds=round(seconds, 3),
        )
        journal = Journal(
            folder,
            config,
            self._limits,
            self._observers,
            sequence=found.sequence,
            tail=found.tail,
            chains=found.chains,
            unsound=found.unsound,
        )
        return Found(config, create_time, found.shard, journal, memory, found.tables, plan)

    def _parent(self, name: StoreName) -> Path:
        return self._folder / name.project / name.store

    def _take(self) -> None:
        """Make the folder this process's; the kernel gives it back when the process ends, however it does."""
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"{self._folder} cannot be used: {error}; set HEADRACE_PARAMETERS_DATA_DIR, or use durability memory"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise FailedPrecondition(
                f"another process keeps its stores in {self._folder}; give each its own HEADRACE_PARAMETERS_DATA_DIR"
            ) from error
        self._lock = lock

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _sweep(parent: Path) -> None:
    for path in parent.iterdir():
        if path.name.endswith((TEMPORARY, REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def _write_manifest(path: Path, request: stores_pb2.CreateStoreRequest, create_time: datetime) -> None:
    """Write what the store was made with."""
    write_json(path, {"create_time": create_time.isoformat(), "request": MessageToDict(request)})
    sync_folder(path.parent.parent)


def _read_manifest(path: Path) -> tuple[stores_pb2.CreateStoreRequest, datetime]:
    try:
        facts = read_json(path)
        request = ParseDict(facts["request"], stores_pb2.CreateStoreRequest())
        return request, datetime.fromisoformat(facts["create_time"])
    except (OSError, ValueError, KeyError, ParseError, InvalidArgument) as error:
        raise DataLoss(f"{path} cannot be read: {error}") from error


def _read_plan(folder: Path) -> resharding_pb2.Hold | None:
    """Return the change of the shards that the folder was made for; None: it was made with the store."""
    path = folder / _PLAN
    try:
        return ParseDict(read_json(path), resharding_pb2.Hold()) if path.exists() else None
    except (OSError, ValueError, ParseError) as error:
        raise DataLoss(f"{path} cannot be read: {error}") from error
