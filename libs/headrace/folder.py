"""Folders that one process has for itself: that of a headrace on this machine, that of a service's database."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import FailedPrecondition

ANOTHER_FOLDER = "choose another folder with --data-dir"


@contextmanager
def claimed(
    folder: Path, lock: str = "lock", *, owner: str = "headrace", remedy: str = ANOTHER_FOLDER
) -> Iterator[None]:
    """Keep `folder`, made when missing, for this process alone: two schedulers on one database would start everything twice.

    The claim ends with the process, however it ends.

    Args:
        folder: What to claim.
        lock: Name of the file in it that says so. Claims under different names do not exclude each other.
        owner: Whose folder it is, for the message.
        remedy: What to do if it cannot be had, for the message.
    Raises:
        FailedPrecondition: It cannot be written to, or another process has claimed it.
    """
    make(folder, remedy)
    try:
        claim = (folder / lock).open("w")
    except OSError as error:
        raise _unwritable(folder, error, remedy) from error
    with claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"{folder} is in use by another {owner}; stop that, or {remedy}"
            ) from None
        yield


def make(folder: Path, remedy: str = ANOTHER_FOLDER) -> None:
    """Make `folder` and those above it where they are missing.

    Raises:
        FailedPrecondition: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error, remedy) from error


def _unwritable(folder: Path, error: OSError, remedy: str) -> FailedPrecondition:
    return FailedPrecondition(f"cannot write to {folder} ({error.strerror}); {remedy}")
