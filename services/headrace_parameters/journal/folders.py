"""How the folders of a store are named: `<epoch>` while it has its first shard map, `<epoch>.<map epoch>` with a later one.

What is staged for the next map has `.staged` behind its name until that is decided. Taking that away is what changes the store, on the disk: whatever
dies when finds the one state or the other.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace_parameters.journal.files import sync_folder

STAGED = ".staged"
REMOVED = ".gone"
_NAME = re.compile(r"([0-9]+)(?:\.([0-9]+))?(\.staged)?")


@dataclass(frozen=True, order=True)
class Generation:
    """Which state of a store is in a folder."""

    epoch: int
    map_epoch: int = 1

    def __str__(self) -> str:
        return str(self.epoch) if self.map_epoch == 1 else f"{self.epoch}.{self.map_epoch}"


@dataclass(frozen=True)
class StoreFolders:
    """What there is of a store, each oldest first."""

    placed: tuple[Generation, ...]
    staged: tuple[Generation, ...]

    @property
    def in_doubt(self) -> Generation | None:
        """What may be decided to be the newest one, or not; the rest of `staged` is outdated."""
        newer = [
            each
            for each in self.staged
            if self.placed and each.epoch == self.placed[-1].epoch and each > self.placed[-1]
        ]
        return newer[-1] if newer else None


def find_folders(parent: Path) -> StoreFolders:
    """List the folders of one store; those that are half-made or half-removed are none."""
    found = list(_generations(parent)) if parent.is_dir() else []
    return StoreFolders(
        placed=tuple(sorted(each for each, staged in found if not staged)),
        staged=tuple(sorted(each for each, staged in found if staged)),
    )


def _generations(parent: Path) -> Iterator[tuple[Generation, bool]]:
    for path in parent.iterdir():
        if match := _NAME.fullmatch(path.name):
            yield Generation(int(match[1]), int(match[2] or 1)), bool(match[3])


def remove_folder(folder: Path) -> None:
    """Remove a store's files: by name at once, so that a crash half-way leaves nothing that looks like a store."""
    gone = folder.with_name(folder.name + REMOVED)
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.replace(gone)
        sync_folder(folder.parent)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
