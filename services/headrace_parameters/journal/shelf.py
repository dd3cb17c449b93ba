"""The folder in which one process keeps its durable stores: `<project>/<store>/<epoch>/`, each with a manifest.

A store's folder is made under another name and renamed when it is complete, so that what has the name is whole.
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from headrace.errors import DataLoss, FailedPrecondition, HeadraceError, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.v1 import stores_pb2
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.record import checksum
from headrace_parameters.core.shard import Shard
from headrace_parameters.journal.files import TEMPORARY, storage_error, sync_folder, written_whole
from headrace_parameters.journal.journal import REMOVED, Journal, Limits, Observers, remove_folder
from headrace_parameters.journal.recovery import recover
from headrace_parameters.published_memory import PublishedMemory

_MANIFEST = "manifest.json"
_LOCK = "lock"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """A store that a former process left here, with everything that was acknowledged."""

    config: StoreConfig
    create_time: datetime
    shard: Shard
    journal: Journal
    memory: PublishedMemory


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

    def place(self, config: StoreConfig, journal: Journal) -> None:
        """Give the files of a new store their name: from now on a restart finds them."""
        try:
            journal.move(self._parent(config.name) / str(config.epoch))
        except OSError as error:
            raise storage_error(error, f"the files of {config.name}") from error

    def remove(self, name: StoreName, epoch: int) -> bool:
        """Remove the files of a store of this epoch and of older ones; return whether there were any."""
        if self._lock is None:
            return False  # what there may be is another process's
        held = [number for number in _epochs(self._parent(name)) if number <= epoch]
        for number in held:
            remove_folder(self._parent(name) / str(number))
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
            epochs = _epochs(parent)
            for old in epochs[:-1]:
                remove_folder(parent / str(old))
            if epochs:
                yield from self._recover(parent, epochs[-1])

    def _recover(self, parent: Path, epoch: int) -> Iterator[Found]:
        folder, began = parent / str(epoch), time.perf_counter()
        name = StoreName(parent.parent.name, parent.name)
        try:
            request, create_time = _read_manifest(folder / _MANIFEST)
            config = self._read_config(request)
            if (config.name, config.epoch) != (name, epoch):
                raise DataLoss(f"{folder} holds {config.name} of epoch {config.epoch}; was it moved?")
            memory = PublishedMemory()
            found = recover(folder, config, memory)
        except (HeadraceError, OSError) as error:
            self._refused[name] = epoch, str(error)
            log.error("store_not_recovered", store=str(name), epoch=epoch, folder=str(folder), why=str(error))
            return
        seconds = time.perf_counter() - began
        self._observers.recovery(seconds)
        log.info(
            "store_recovered",
            store=str(name),
            epoch=epoch,
            version=found.shard.published.version if found.shard.published else None,
            changes_replayed=found.changes,
            bytes_cut=found.cut_bytes,
            damage_avoided=found.notes,
            seconds=round(seconds, 3),
        )
        journal = Journal(
            folder, config, self._limits, self._observers, sequence=found.sequence, tail=found.tail
        )
        yield Found(config, create_time, found.shard, journal, memory)

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


def _epochs(parent: Path) -> list[int]:
    """List the epochs that have files, oldest first."""
    if not parent.is_dir():
        return []
    return sorted(int(path.name) for path in parent.iterdir() if path.name.isdecimal())


def _sweep(parent: Path) -> None:
    for path in parent.iterdir():
        if path.name.endswith((TEMPORARY, REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def _write_manifest(path: Path, request: stores_pb2.CreateStoreRequest, create_time: datetime) -> None:
    """Write what the store was made with: a line of JSON, and its checksum in a second one."""
    facts = {"create_time": create_time.isoformat(), "request": MessageToDict(request)}
    line = json.dumps(facts, sort_keys=True)
    with written_whole(path) as temporary:
        temporary.write_text(f"{line}\n{checksum(line.encode()):08x}\n")
    sync_folder(path.parent.parent)


def _read_manifest(path: Path) -> tuple[stores_pb2.CreateStoreRequest, datetime]:
    try:
        line, crc = path.read_text().splitlines()
        if int(crc, 16) != checksum(line.encode()):
            raise DataLoss(f"{path} is damaged: its checksum does not match")
        facts = json.loads(line)
        request = ParseDict(facts["request"], stores_pb2.CreateStoreRequest())
        return request, datetime.fromisoformat(facts["create_time"])
    except (OSError, ValueError, KeyError, ParseError, InvalidArgument) as error:
        raise DataLoss(f"{path} cannot be read: {error}") from error
