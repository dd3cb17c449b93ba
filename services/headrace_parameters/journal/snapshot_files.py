"""Snapshots in a store's folder: `snapshot-<sequence>-<crc32c>.safetensors` holds all changes before `sequence`."""

import json
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from headrace.errors import HeadraceError
from headrace_parameters.core.record import checksum
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.files import sync_folder, write_all

KEPT = 2  # the newest, and the one before it in case that one cannot be read
Bytes = npt.NDArray[np.uint8]

_SPARE = "spare-snapshot"  # one that is not needed any more, to be written over
_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 1 << 12
_HEADER_BYTES = 512  # a header takes a multiple of this,
_ROOM_BYTES = 64  # with room for numbers in it to become longer
_LENGTH = struct.Struct("<Q")
_NAME = re.compile(r"snapshot-([0-9]{20})-([0-9a-f]{8})\.safetensors")


class Damaged(Exception):
    """A file is not what was written."""


@dataclass(frozen=True, order=True)
class SnapshotFile:
    """One snapshot; its name says which changes are in it and what its content sums up to."""

    sequence: int
    crc: int
    path: Path

    def load(self) -> ShardState:
        """Read it.

        Raises:
            Damaged: It is not what was written.
        """
        try:
            self._check()
            with safe_open(self.path, framework="pt") as file:
                # Not copied: nobody writes to a snapshot, and its pages outlive its name.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                return ShardState.decode(tensors, file.metadata() or {})
        except (OSError, SafetensorError, HeadraceError) as error:
            raise Damaged(f"{self.path.name} cannot be read: {error}") from error

    def _check(self) -> None:
        if _crc_of(self.path) != self.crc:
            raise Damaged(f"{self.path.name} is damaged: its checksum does not match")


def _crc_of(path: Path) -> int:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return checksum(b"")
        return checksum(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def find_snapshots(folder: Path) -> list[SnapshotFile]:
    """List the snapshots of a store, newest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    files = [SnapshotFile(int(match[1]), int(match[2], 16), path) for match, path in found if match]
    return sorted(files, reverse=True)


def write_snapshot(folder: Path, sequence: int, state: ShardState) -> SnapshotFile:
    """Write what a shard was after the changes before `sequence`; it survives the machine when this returns.

    It is written over an old snapshot, if there is one to spare, and of that only what is different.

    Raises:
        OSError: It could not be written; there is nothing of it.
    """
    spare = folder / _SPARE
    try:
        crc = _write_over(spare, list(_content(state)))
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


def _content(state: ShardState) -> Iterator[Bytes]:
    """Yield a file in the format of safetensors: the length of the header, the header in JSON, the values."""
    tensors, metadata = state.encode()
    arrays = {
        name: tensor.contiguous().numpy().reshape(-1).view(np.uint8) for name, tensor in tensors.items()
    }
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, array in arrays.items():
        facts = {"dtype": "F32", "shape": list(tensors[name].shape)}
        header[name] = facts | {"data_offsets": [start, start := start + array.size]}
    text = json.dumps(header).encode()
    # With spaces behind it, so that the values lie where those of the snapshot before lie, whose header has a digit less.
    length = -(-(_LENGTH.size + len(text) + _ROOM_BYTES) // _HEADER_BYTES) * _HEADER_BYTES - _LENGTH.size
    yield np.frombuffer(_LENGTH.pack(length) + text.ljust(length), np.uint8)
    yield from arrays.values()


def _write_over(path: Path, parts: Sequence[Bytes]) -> int:
    """Make `parts`, one after the other, what is in a file, on the disk too; return their checksum."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    crc = offset = 0
    try:
        for part in parts:
            for start in range(0, part.size, _BLOCK_BYTES):
                block = part[start : start + _BLOCK_BYTES]
                crc = checksum(block.data, crc)
                if not _is_there(file, block, offset):
                    write_all(file, [block.data], offset)
                offset += block.size
        os.ftruncate(file, offset)
        os.fsync(file)
    finally:
        os.close(file)
    return crc


def _is_there(file: int, block: Bytes, offset: int) -> bool:
    """Tell whether a file has a block already; most that have not differ in the first page."""
    for size in (min(block.size, _PAGE_BYTES), block.size):
        found = os.pread(file, size, offset)
        if len(found) < size or not np.array_equal(np.frombuffer(found, np.uint8), block[:size]):
            return False
    return True
