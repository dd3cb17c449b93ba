"""Bytes to and from the registry: in chunks, resumed after a broken connection, checked against their digest."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from headrace.errors import (
    DataLoss,
    DigestMismatch,
    HeadraceError,
    TooManyCalls,
    Unavailable,
    UploadOffsetMismatch,
)
from headrace.pauses import Pauses
from headrace.registry.v1.artifacts_pb2 import DownloadRequest, GetUploadRequest, UploadRequest
from headrace.registry.v1.artifacts_pb2_grpc import ArtifactsStub

# Bytes: large enough to amortise a message, small enough that a broken connection loses little.
CHUNK = 1 << 20
PAUSES = Pauses(first_s=0.1, longest_s=2.0)
TRANSIENT = (Unavailable, TooManyCalls)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Patience:
    """How long a transfer may take, and how long it waits for a registry that does not answer."""

    timeout_s: float = 3600  # the whole transfer
    stalled_s: float = 30  # without one more byte: about as long as a restart of the registry takes
    call_s: float = 30  # a short question in between


PATIENCE = Patience()


@dataclass
class Attempts:
    """The tries of one transfer; `failed` decides whether there is another."""

    patience: Patience
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _end: float = field(init=False)
    _stalled_end: float = field(init=False)
    _done: int = field(default=-1, init=False)
    _pauses: Iterator[float] = field(default_factory=lambda: iter(PAUSES), init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.patience.timeout_s
        self._stalled_end = self.clock() + self.patience.stalled_s

    @property
    def remaining_s(self) -> float:
        """Seconds the transfer has left, as the deadline of a call: always more than 0."""
        return max(self._end - self.clock(), 0.001)

    def reached(self, done: int) -> None:
        """Note that `done` bytes are safe; more than before starts the wait anew."""
        if done > self._done:
            self._done, self._pauses = done, iter(PAUSES)
            self._stalled_end = self.clock() + self.patience.stalled_s

    def failed(self, error: HeadraceError) -> None:
        """Wait a little before the next try, or give up and raise `error`."""
        pause_s = next(self._pauses) * random.uniform(0.5, 1)  # noqa: S311 - spreads callers out, guards nothing
        if self.clock() + pause_s > min(self._end, self._stalled_end):
            raise error
        self.pause(pause_s)


def digest_of(source: BinaryIO) -> tuple[str, int]:
    """Read `source` to its end; return its sha256 in hex and its size in bytes."""
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        sha256.update(chunk)
        size += len(chunk)
    return sha256.hexdigest(), size


@dataclass
class Upload:
    """One artifact on its way to the registry.

    Args:
        name: `projects/{project}/artifacts/{sha256}`.
        source: Its bytes; read from any position, more than once when the connection breaks.
        size_bytes: How many there are.
    """

    stub: ArtifactsStub
    name: str
    source: BinaryIO
    size_bytes: int
    on_progress: Progress

    def run(self, attempts: Attempts) -> None:
        """Send what the registry lacks, and go on where it broke off.

        Raises:
            DigestMismatch: The bytes changed since they were hashed.
            StorageFull: The registry has no room.
            Unavailable: It did not answer for too long.
        """
        restarts = 1
        while True:
            offset = 0
            try:
                offset = self._kept(attempts)
                if offset < 0:
                    break
                self.stub.Upload(self._requests(offset), timeout=attempts.remaining_s)
                break
            except (*TRANSIENT, UploadOffsetMismatch) as error:
                # A mismatch means that somebody else sends the same bytes, or that our broken call still drains.
                attempts.failed(error)
            except DigestMismatch:
                # What was kept before we came may have been wrong. It is gone now; our own bytes get one fair try.
                if offset == 0 or not restarts:
                    raise
                restarts -= 1
        self.on_progress(self.size_bytes, self.size_bytes)

    def _kept(self, attempts: Attempts) -> int:
        """Ask where to go on; -1 when there is nothing left to do."""
        timeout_s = min(attempts.patience.call_s, attempts.remaining_s)
        status = self.stub.GetUpload(GetUploadRequest(name=self.name), timeout=timeout_s)
        if status.committed:
            return -1
        attempts.reached(status.offset)
        return status.offset

    def _requests(self, offset: int) -> Iterator[UploadRequest]:
        self.source.seek(offset)
        yield UploadRequest(
            name=self.name, size_bytes=self.size_bytes, offset=offset, data=self.source.read(CHUNK)
        )
        while data := self.source.read(CHUNK):
            self.on_progress(self.source.tell() - len(data), self.size_bytes)
            yield UploadRequest(data=data)


def download(stub: ArtifactsStub, name: str, attempts: Attempts) -> Iterator[bytes]:
    """Yield the bytes of an artifact in chunks, going on where a broken connection ended.

    Raises:
        DataLoss: After the last chunk, if the bytes are not those of the digest in `name`: throw them away.
        NotFound: The project has no such artifact.
        Unavailable: The registry did not answer for too long.
    """
    sha256, received = hashlib.sha256(), 0
    while True:
        request = DownloadRequest(name=name, offset=received)
        try:
            for response in stub.Download(request, timeout=attempts.remaining_s):
                sha256.update(response.data)
                received += len(response.data)
                attempts.reached(received)
                yield response.data
            break
        except TRANSIENT as error:
            attempts.failed(error)
    if not name.endswith(sha256.hexdigest()):
        raise DataLoss(
            f"the {received} bytes received for {name} do not have its digest; download again, and upload again "
            f"if it stays so"
        )
