"""Artifacts: bytes that are kept once, and that a project sees when it has uploaded them itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from headrace.artifacts.store import ArtifactStore
from headrace.errors import DataLoss, InvalidArgument, NotFound, OutOfRange, UploadOffsetMismatch
from headrace.names import ArtifactName
from headrace_registry.core.repository import Database
from headrace_registry.core.resources import Artifact

MAX_CHUNK = 4 << 20  # bytes in one message of an upload: what gRPC takes by default


@dataclass(frozen=True)
class UploadStatus:
    """How far an upload is: bytes kept, and whether it is done."""

    offset: int
    committed: bool


class Artifacts:
    """The artifacts of all projects.

    Args:
        store: Keeps the bytes.
        database: Keeps who sees them.
        max_bytes: Largest artifact taken.
        now: Tells the time, in UTC.
    """

    def __init__(
        self, store: ArtifactStore, database: Database, max_bytes: int, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._database = database
        self._max_bytes = max_bytes
        self._now = now

    def get(self, name: ArtifactName) -> Artifact:
        """Return the facts about an artifact.

        Raises:
            NotFound: The project has no such artifact, whoever else has.
        """
        with self._database.reading() as repository:
            artifact = repository.find_artifact(name)
        if artifact is None:
            raise NotFound(f"{name} does not exist; upload it first")
        return artifact

    def read(self, name: ArtifactName, offset: int, length: int) -> Iterator[bytes]:
        """Return the bytes from `offset` in chunks: `length` of them, or all to the end for 0.

        Raises:
            NotFound: The project has no such artifact.
            OutOfRange: `offset` lies past the end.
            DataLoss: The bytes are gone or damaged, which shows after the last chunk of the whole.
        """
        artifact = self.get(name)
        if offset > artifact.size_bytes:
            raise OutOfRange(
                f"offset {offset} lies past the {artifact.size_bytes} bytes of {name}", field="offset"
            )
        if not self._is_stored(artifact):
            raise DataLoss(f"the bytes of {name} are gone or cut short; upload them again")
        return self._store.read(name.digest, offset, length or None)

    def upload_status(self, name: ArtifactName) -> UploadStatus:
        """Tell where an upload goes on; one that nobody began goes on at 0."""
        # In this order: an upload that is committed in between is found as the one or the other, never as begun anew.
        received = self._store.received(name.project, name.digest)
        committed = self._committed(name)
        if committed:
            return UploadStatus(committed.size_bytes, committed=True)
        return UploadStatus(received, committed=False)

    def begin_upload(self, name: ArtifactName, size_bytes: int, offset: int) -> "Artifact | Upload":
        """Begin or go on with an upload; return the artifact instead if the project has it already.

        Raises:
            InvalidArgument: It is too large.
            UploadOffsetMismatch: Bytes before `offset` are missing.
            StorageFull: There is no room for it.
        """
        committed = self._committed(name)
        if committed:
            return committed
        if size_bytes > self._max_bytes:
            raise InvalidArgument(
                f"size_bytes {size_bytes} exceeds the {self._max_bytes} that this registry takes; send less, "
                f"or raise HEADRACE_REGISTRY_MAX_ARTIFACT_BYTES",
                field="size_bytes",
            )
        received = self._store.received(name.project, name.digest)
        if offset > received:
            raise UploadOffsetMismatch(
                f"offset {offset} of {name} lies past the {received} bytes received; go on at offset {received}",
                metadata={"offset": received},
            )
        self._store.begin(name.project, name.digest, size_bytes)
        return Upload(name, size_bytes, offset, self._store, self._see)

    def _committed(self, name: ArtifactName) -> Artifact | None:
        """Return what the project sees and the store really has: lost bytes may be uploaded again."""
        with self._database.reading() as repository:
            artifact = repository.find_artifact(name)
        return artifact if artifact and self._is_stored(artifact) else None

    def _is_stored(self, artifact: Artifact) -> bool:
        return self._store.size(artifact.name.digest) == artifact.size_bytes

    def _see(self, name: ArtifactName, size_bytes: int) -> Artifact:
        """Let the project see stored bytes from now on."""
        with self._database.writing() as repository:
            repository.add_artifact(Artifact(name, size_bytes, self._now()))
        return self.get(name)


class Upload:
    """One call's part of an upload; what it added stays when the call breaks off."""

    def __init__(
        self,
        name: ArtifactName,
        size_bytes: int,
        offset: int,
        store: ArtifactStore,
        see: Callable[[ArtifactName, int], Artifact],
    ) -> None:
        self._name = name
        self._size_bytes = size_bytes
        self._offset = offset
        self._store = store
        self._see = see

    def append(self, data: bytes) -> None:
        """Keep the next bytes.

        Raises:
            InvalidArgument: They are too many, for one message or for the announced size.
        """
        if len(data) > MAX_CHUNK:
            raise InvalidArgument(
                f"data of {len(data)} bytes exceeds {MAX_CHUNK}; send smaller chunks", field="data"
            )
        if self._offset + len(data) > self._size_bytes:
            raise InvalidArgument(
                f"{self._offset + len(data)} bytes came, more than the announced size_bytes {self._size_bytes}; "
                f"announce the whole size",
                field="size_bytes",
            )
        self._offset = self._store.append(self._name.project, self._name.digest, self._offset, data)

    def commit(self) -> Artifact:
        """End the upload: the artifact exists from now on.

        Raises:
            UploadOffsetMismatch: The stream ended too early.
            DigestMismatch: The bytes do not have the digest; they are discarded.
        """
        return self._store.commit(
            self._name.project,
            self._name.digest,
            self._size_bytes,
            then=lambda: self._see(self._name, self._size_bytes),
        )
