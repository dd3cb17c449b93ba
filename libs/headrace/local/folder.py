"""The folder that keeps everything of one headrace on this machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import FailedPrecondition


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep `folder`, made when missing, for this process alone: two schedulers on one database would start everything twice.

    The claim ends with the process, however it ends.

    Raises:
        FailedPrecondition: It cannot be written to, or another process has claimed it.
    """
    make(folder)
    try:
        claim = (folder / "lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"{folder} is in use by another headrace; stop that, or choose another folder with --data-dir"
            ) from None
        yield


def make(folder: Path) -> None:
    """Make `folder` and those above it where they are missing.

    Raises:
        FailedPrecondition: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot write to {folder} ({error.strerror}); choose another folder with --data-dir"
    )
