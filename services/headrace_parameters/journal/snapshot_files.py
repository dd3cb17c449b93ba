"""Snapshots in a store's folder: `snapshot-<sequence>-<crc32c>.safetensors` holds all pushes before `sequence`."""

import errno
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headrace.errors import HeadraceError
from headrace_parameters.core.record import checksum
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.files import sync_folder, written_whole

KEPT = 2  # the newest, and the one before it in case that one cannot be read
_NAME = re.compile(r"snapshot-([0-9]{20})-([0-9a-f]{8})\.safetensors")


class Damaged(Exception):
    """A file is not what was written."""


@dataclass(frozen=True, order=True)
class SnapshotFile:
    """One snapshot; its name says which pushes are in it and what its content sums up to."""

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
    """Write what a shard was after the pushes before `sequence`; it survives the machine when this returns.

    Raises:
        OSError: It could not be written; there is nothing of it.
    """
    tensors, metadata = state.encode()
    with written_whole(folder / f"snapshot-{sequence:020}") as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # its own form of what the operating system said
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
        crc = _crc_of(temporary)
    unnamed = folder / f"snapshot-{sequence:020}"
    path = unnamed.with_name(f"{unnamed.name}-{crc:08x}.safetensors")
    unnamed.replace(path)
    sync_folder(folder)
    return SnapshotFile(sequence, crc, path)
