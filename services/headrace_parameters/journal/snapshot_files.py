"""Snapshots in a store's folder: `snapshot-<sequence>-<crc32c>.safetensors` holds all changes before `sequence`.

Rows of tables are in files beside it, of which it names the newest of each table; see `row_files`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from headrace.errors import HeadraceError
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.files import sync_folder
from headrace_parameters.journal.row_files import Chains, names_in, read_rows
from headrace_parameters.journal.tensor_files import Column, Damaged, read, read_metadata, write_over

KEPT = 2  # the newest, and the one before it in case that one cannot be read

_SPARE = "spare-snapshot"  # one that is not needed any more, to be written over
_NAME = re.compile(r"snapshot-([0-9]{20})-([0-9a-f]{8})\.safetensors")
_ROWS = "rows"  # of the metadata: the newest file of each table
_WAITING = "waiting"  # a tensor: records


@dataclass(frozen=True, order=True)
class SnapshotFile:
    """One snapshot; its name says which changes are in it and what its content sums up to."""

    sequence: int
    crc: int
    path: Path

    def load(self) -> "Loaded":
        """Read it.

        Raises:
            Damaged: It is not what was written.
        """
        tensors, metadata = read(self.path, self.crc)
        try:
            state = ShardState.decode(tensors, metadata)
        except HeadraceError as error:
            raise Damaged(f"{self.path.name} cannot be read: {error}") from error
        tables, chains = read_rows(self.path.parent, _heads(metadata))
        waiting = tensors[_WAITING].numpy().tobytes() if _WAITING in tensors else b""
        return Loaded(replace(state, tables=tables), chains, waiting)

    def row_files(self) -> set[str]:
        """Return the names of the files of rows that it needs, as far as they can be read."""
        try:
            return names_in(self.path.parent, _heads(read_metadata(self.path)))
        except Damaged:
            return set()


@dataclass(frozen=True)
class Loaded:
    """What a snapshot has.

    Args:
        chains: The files that the rows of its tables are in.
        waiting: Records of changes that had been made, and are not in `state`.
    """

    state: ShardState
    chains: Chains = field(default_factory=Chains)
    waiting: bytes = b""


def find_snapshots(folder: Path) -> list[SnapshotFile]:
    """List the snapshots of a store, newest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    files = [SnapshotFile(int(match[1]), int(match[2], 16), path) for match, path in found if match]
    return sorted(files, reverse=True)


def write_snapshot(
    folder: Path,
    sequence: int,
    state: ShardState,
    rows: Mapping[str, str] | None = None,
    waiting: bytes = b"",
) -> SnapshotFile:
    """Write what a shard was after the changes before `sequence`; it survives the machine when this returns.

    It is written over an old snapshot, if there is one to spare, and of that only what is different.

    Args:
        rows: The newest file of each table, which are written.
        waiting: Records of changes that are not in `state`, a multiple of 4 bytes.
    Raises:
        OSError: It could not be written; there is nothing of it.
    """
    tensors, metadata = replace(state, tables={}).encode()
    if waiting:
        tensors[_WAITING] = torch.frombuffer(bytearray(waiting), dtype=torch.int32)
    columns = {name: Column.of(tensor) for name, tensor in tensors.items()}
    spare = folder / _SPARE
    try:
        crc = write_over(spare, columns, {**metadata, _ROWS: json.dumps(rows)} if rows else metadata)
    except OSError:
        spare.unlink(missing_ok=True)
        raise
    path = folder / f"snapshot-{sequence:020}-{crc:08x}.safetensors"
    spare.replace(path)
    sync_folder(folder)
    return SnapshotFile(sequence, crc, path)


def remove_snapshots(snapshots: Iterable[SnapshotFile]) -> None:
    """Remove snapshots, but spare the file of one."""
    for snapshot in snapshots:
        snapshot.path.replace(snapshot.path.with_name(_SPARE))


def _heads(metadata: Mapping[str, str]) -> dict[str, str]:
    return {str(table): str(name) for table, name in json.loads(metadata.get(_ROWS, "{}")).items()}
