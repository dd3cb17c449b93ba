"""Artifacts in a folder of this machine.

    uploads/{project}-{sha256}.part    received, not yet checked
    sha256/ab/{sha256}                 whole, checked, never changed; `ab` are the first two digits
    sha256/ab/{sha256}.damaged         what that was when its bytes no longer had their digest

Atomic by `rename`, durable by `fsync` of the file before it and of the folder after it. A crash at any point leaves
either the part or the artifact.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.artifacts.store import CHUNK, Result
from headrace.errors import (
    DataLoss,
    DigestMismatch,
    FailedPrecondition,
    InvalidArgument,
    StorageFull,
    UploadOffsetMismatch,
)
from headrace.names import check_id

STALE_S = 24 * 3600  # who has not come back within a day starts over
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LocalArtifacts:
    """The store in a folder of this machine, which is made if it is not there.

    Abandoned uploads, older than a day, are removed at the start.

    Args:
        now: Seconds since 1970, read once.
    Raises:
        FailedPrecondition: The folder cannot be made.
    """

    def __init__(self, folder: Path, now: float | None = None) -> None:
        self._uploads = folder / "uploads"
        self._artifacts = folder / "sha256"
        try:
            for part_of_store in (self._uploads, self._artifacts):
                part_of_store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot keep artifacts in {folder} ({error.strerror}); name a folder that can be written"
            ) from error
        self._guard = threading.Lock()
        self._locks: weakref.WeakValueDictionary[Path, threading.Lock] = weakref.WeakValueDictionary()
        self._sweep((time.time() if now is None else now) - STALE_S)

    def _sweep(self, oldest: float) -> None:
        for part in self._uploads.glob("*.part"):
            if part.stat().st_mtime < oldest:
                part.unlink()

    def size(self, digest: str) -> int | None:
        """Return how many bytes are stored under `digest`; None if there are none."""
        try:
            return self._artifact(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield `length` bytes from `offset`, or all to the end, in chunks of at most `CHUNK`.

        Raises:
            DataLoss: They are gone; or, after the last chunk of the whole, they do not have their digest.
        """
        with self._open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            wanted = size - offset if length is None else min(length, size - offset)
            sha256 = hashlib.sha256()
            for chunk in _chunks(file, offset, wanted):
                sha256.update(chunk)
                yield chunk
            if wanted == size and sha256.hexdigest() != digest:
                self._set_aside(file, digest)
                raise DataLoss(
                    f"the stored bytes of artifact {digest} were damaged and are set aside; upload them again",
                    metadata={"sha256": digest},
                )

    def _open(self, digest: str) -> BinaryIO:
        try:
            return self._artifact(digest).open("rb")
        except FileNotFoundError:
            raise DataLoss(
                f"the bytes of artifact {digest} are gone; upload them again", metadata={"sha256": digest}
            ) from None

    def _set_aside(self, damaged: BinaryIO, digest: str) -> None:
        """Keep damaged bytes for the operator, but out of the way of an upload that heals them."""
        artifact = self._artifact(digest)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(damaged.fileno()), artifact.stat()):  # else it was healed meanwhile
                artifact.replace(artifact.with_name(f"{digest}.damaged"))

    def received(self, project: str, digest: str) -> int:
        """Return how many bytes of an unfinished upload are kept."""
        part = self._part(project, digest)
        with self._changing(part):  # what is being committed is still received, until it is an artifact
            return _size(part)

    def begin(self, project: str, digest: str, size: int) -> None:
        """Begin an upload of `size` bytes or go on with one.

        Raises:
            StorageFull: There is no room for what is missing.
        """
        part = self._part(project, digest)
        missing, free = size - _size(part), shutil.disk_usage(self._uploads).free
        if missing > free:
            raise StorageFull(
                f"the upload needs {missing} bytes more and {free} are free; free some space and upload again"
            )
        with self._changing(part):
            part.touch()

    def append(self, project: str, digest: str, offset: int, data: bytes) -> int:
        """Keep `data`, which begins at `offset`; return where the next bytes begin. What is kept already is skipped.

        Raises:
            UploadOffsetMismatch: Bytes before `offset` are missing.
            StorageFull: No room is left; the upload is discarded to give some back.
        """
        part = self._part(project, digest)
        with self._changing(part):
            kept = _size(part)
            # A slow call must not begin again what another one has finished meanwhile.
            finished = not part.exists() and self.size(digest) is not None
            if offset > kept or finished:
                raise _gap(digest, offset, kept)
            if offset + len(data) > kept:
                with part.open("ab") as file:
                    file.write(memoryview(data)[kept - offset :])
        return offset + len(data)

    def commit(self, project: str, digest: str, size: int, then: Callable[[], Result]) -> Result:
        """Turn a finished upload into the artifact, at once and for good, even if the power fails right after.

        Args:
            then: Called once the artifact is there, before anyone else can look at or change the upload.
        Returns:
            What `then` returned.
        Raises:
            DigestMismatch: The bytes are not `size` bytes with this digest; the upload is discarded.
            UploadOffsetMismatch: Bytes are missing, or somebody else finished the upload meanwhile.
            StorageFull: No room is left; the upload is discarded to give some back.
        """
        part = self._part(project, digest)
        with self._changing(part):
            kept = _size(part)
            if kept < size or not part.exists():
                raise _gap(digest, size, kept)
            _sync(part)
            found = _digest(part)
            if kept > size or found != digest:
                part.unlink()
                raise DigestMismatch(
                    f"the {kept} bytes received have the sha256 {found}, not the expected {digest} of {size} "
                    f"bytes; they are discarded, upload again from offset 0",
                    metadata={"sha256": found, "size_bytes": kept},
                )
            self._publish(part, self._artifact(digest))
            return then()

    def _publish(self, part: Path, artifact: Path) -> None:
        if not artifact.parent.exists():
            artifact.parent.mkdir(exist_ok=True)
            _sync(self._artifacts)
        part.chmod(0o444)
        # An artifact that is there is replaced by the same bytes, which heals it if it was damaged.
        part.replace(artifact)
        _sync(artifact.parent)

    @contextlib.contextmanager
    def _changing(self, part: Path) -> Iterator[None]:
        """Let one caller at a time change `part`; a full disk costs it."""
        with self._guard:
            lock = self._locks.setdefault(part, threading.Lock())
        with lock:
            try:
                yield
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                part.unlink(missing_ok=True)
                raise StorageFull(
                    f"no room for the upload ({error.strerror}); what was received of it is discarded; "
                    f"free some space and upload again from offset 0"
                ) from error

    def _part(self, project: str, digest: str) -> Path:
        return self._uploads / f"{check_id(project, 'project')}-{_checked(digest)}.part"

    def _artifact(self, digest: str) -> Path:
        return self._artifacts / _checked(digest)[:2] / digest


def _checked(digest: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise InvalidArgument(f"{digest[:100]!r} is not a sha256; it is 64 lower-case hexadecimal digits")
    return digest


def _gap(digest: str, offset: int, kept: int) -> UploadOffsetMismatch:
    return UploadOffsetMismatch(
        f"bytes from offset {offset} of {digest} do not follow the {kept} received; go on at offset {kept}",
        metadata={"offset": kept},
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _chunks(file: BinaryIO, offset: int, wanted: int) -> Iterator[bytes]:
    file.seek(offset)
    while wanted > 0 and (chunk := file.read(min(CHUNK, wanted))):
        wanted -= len(chunk)
        yield chunk


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
