"""What a store of content-addressed bytes can do; where they lie is its own matter."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

Result = TypeVar("Result")

CHUNK = 1 << 20  # bytes read at a time, and the most that one message of a download carries


class ArtifactStore(Protocol):
    """Immutable bytes under their digest, and uploads on their way to become such.

    A digest is 64 lower-case hex digits, a project an id of `headrace.names`; anything else is refused, for both
    become parts of paths. An upload belongs to one project. Any number of callers may send the same bytes at once.
    """

    def size(self, digest: str) -> int | None:
        """Return how many bytes are stored under `digest`; None if there are none."""

    def read(self, digest: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield `length` bytes from `offset`, or all to the end, in chunks of at most `CHUNK`.

        Raises:
            DataLoss: They are gone; or, after the last chunk of the whole, they do not have their digest.
        """

    def received(self, project: str, digest: str) -> int:
        """Return how many bytes of an unfinished upload are kept."""

    def begin(self, project: str, digest: str, size: int) -> None:
        """Begin an upload of `size` bytes or go on with one.

        Raises:
            StorageFull: There is no room for what is missing.
        """

    def append(self, project: str, digest: str, offset: int, data: bytes) -> int:
        """Keep `data`, which begins at `offset`; return where the next bytes begin. What is kept already is skipped.

        Raises:
            UploadOffsetMismatch: Bytes before `offset` are missing.
            StorageFull: No room is left; the upload is discarded to give some back.
        """

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
