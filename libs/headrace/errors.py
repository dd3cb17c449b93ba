# length: one table of all errors, read as a whole
"""Everything that can go wrong, named once: the core raises these, the server maps them, the client raises them again.

    HeadraceError                     code and reason of its own; the leaves below are the whole vocabulary
    ├── InvalidArgument               NonFiniteValues  ShapeMismatch  DtypeMismatch  DigestMismatch  RequestIdReused
    ├── NotFound
    ├── AlreadyExists
    ├── FailedPrecondition            StaleEpoch  UploadOffsetMismatch  ProgramFailed  SharedMemoryUnavailable  RunFinished
    │                                 DataUnreadable  DataChanged  StaleTerm  NotPrimary
    ├── Aborted                       EtagMismatch  ShardMapChanged  MembersChanged
    ├── OutOfRange
    ├── ResourceExhausted             QuotaExceeded  TooManyCalls  StorageFull
    ├── Unavailable                   ServerDraining  NodeLost  ReplicaUnreachable
    ├── DeadlineExceeded
    ├── Cancelled
    ├── PermissionDenied              ProgramNotAllowed
    ├── Unauthenticated
    ├── Unimplemented
    ├── DataLoss
    ├── Internal
    └── Unknown                       what another server sent without a code of its own

On the wire an error is a canonical gRPC code and one `google.rpc.ErrorInfo` with `reason` and `metadata`.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum

DOMAIN = "headrace"
TASK_CRASHED = "TASK_CRASHED"  # the reason of a task whose process ended without a word: nobody's error


class Code(IntEnum):
    """The canonical codes of gRPC with their numbers on the wire; here so that a core can name one without gRPC."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class HeadraceError(Exception):
    """Say what is wrong, with the value, and what to do.

    Args:
        message: One line for people.
        metadata: Facts for programs, sent as `ErrorInfo.metadata`; values become text.
        field: Path of the request field at fault, sent as `BadRequest`: `page_size`, `spec.train.model`.
        retry_after_s: When it is worth trying again, sent as `RetryInfo`.
    """

    code: Code = Code.UNKNOWN
    reason: str = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidArgument(HeadraceError):
    """The request can never work as it stands, whatever the state of the server."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class NonFiniteValues(InvalidArgument):
    """A tensor holds a NaN or an infinity."""

    reason = "NON_FINITE_VALUES"


class ShapeMismatch(InvalidArgument):
    """A tensor has another shape or another number of bytes than it must have."""

    reason = "SHAPE_MISMATCH"


class DtypeMismatch(InvalidArgument):
    """A tensor has another element type than it must have."""

    reason = "DTYPE_MISMATCH"


class DigestMismatch(InvalidArgument):
    """Bytes do not have the digest they were announced with."""

    reason = "DIGEST_MISMATCH"


class RequestIdReused(InvalidArgument):
    """The same `request_id` came before with another body."""

    reason = "REQUEST_ID_REUSED"


class NotFound(HeadraceError):
    """Nothing has this name."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(HeadraceError):
    """Something else has this name already."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class FailedPrecondition(HeadraceError):
    """The request is well formed, but not in the present state; repeating it alone does not help."""

    code = Code.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class StaleEpoch(FailedPrecondition):
    """The caller belongs to an attempt that has been replaced; it must stop."""

    reason = "STALE_EPOCH"


class UploadOffsetMismatch(FailedPrecondition):
    """A chunk does not begin where the bytes received so far end; `metadata["offset"]` is where it must begin."""

    reason = "UPLOAD_OFFSET_MISMATCH"


class SharedMemoryUnavailable(FailedPrecondition):
    """Two processes cannot share memory; streams between them do the same."""

    reason = "SHARED_MEMORY_UNAVAILABLE"


class RunFinished(FailedPrecondition):
    """One rank has ended the run for all: it has what it wanted."""

    reason = "RUN_FINISHED"


class StaleTerm(FailedPrecondition):
    """The caller acts for a term of a replicated store that a greater one has replaced; `metadata["term"]` is that one."""

    reason = "STALE_TERM"


class NotPrimary(FailedPrecondition):
    """This process does not serve the store, another one does; `metadata["primary"]` is its address, if it is known here.

    No `Unavailable`: gRPC would repeat the call here, where the answer stays the same.
    """

    reason = "NOT_PRIMARY"


class ProgramFailed(FailedPrecondition):
    """The user's program raised, or is not a program."""

    reason = "PROGRAM_FAILED"


class DataUnreadable(FailedPrecondition):
    """Data to train or measure with are not there, or not what they should be; the message names the file and the row."""

    reason = "DATA_UNREADABLE"


class DataChanged(FailedPrecondition):
    """Data changed while a run read them."""

    reason = "DATA_CHANGED"


class Aborted(HeadraceError):
    """Somebody else was faster; read again and repeat."""

    code = Code.ABORTED
    reason = "ABORTED"


class EtagMismatch(Aborted):
    """The resource changed since it was read."""

    reason = "ETAG_MISMATCH"


class ShardMapChanged(Aborted):
    """The store's values lie elsewhere than the caller thinks; `metadata["map_epoch"]` says which map holds now."""

    reason = "SHARD_MAP_CHANGED"


class MembersChanged(Aborted):
    """Workers have joined or left since the caller took its place; it must take its place anew and compute the step again."""

    reason = "MEMBERS_CHANGED"


class OutOfRange(HeadraceError):
    """A position lies past the end of what there is."""

    code = Code.OUT_OF_RANGE
    reason = "OUT_OF_RANGE"


class ResourceExhausted(HeadraceError):
    """Something is used up: a quota, slots, space."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class QuotaExceeded(ResourceExhausted):
    """The project may not have more of this."""

    reason = "QUOTA_EXCEEDED"


class TooManyCalls(ResourceExhausted):
    """The server already runs as many calls as it admits."""

    reason = "TOO_MANY_CALLS"


class StorageFull(ResourceExhausted):
    """The disk or the store has no room left; nothing was written."""

    reason = "STORAGE_FULL"


class Unavailable(HeadraceError):
    """The service cannot be reached or does not serve now; the same call may work soon."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class ServerDraining(Unavailable):
    """The server is about to stop and takes no new calls."""

    reason = "SERVER_DRAINING"


class NodeLost(Unavailable):
    """The node that held this work is gone."""

    reason = "NODE_LOST"


class ReplicaUnreachable(Unavailable):
    """The replica has not confirmed a change, which may be there or not; repeat it, here or at the replica."""

    reason = "REPLICA_UNREACHABLE"


class DeadlineExceeded(HeadraceError):
    """The answer did not come in time; the work may have been done or not."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(HeadraceError):
    """Somebody asked for the work to stop."""

    code = Code.CANCELLED
    reason = "CANCELLED"


class PermissionDenied(HeadraceError):
    """The caller is known but may not do this."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class ProgramNotAllowed(PermissionDenied):
    """The operator does not allow this program to run here."""

    reason = "PROGRAM_NOT_ALLOWED"


class Unauthenticated(HeadraceError):
    """The caller is not known."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class Unimplemented(HeadraceError):
    """The server does not offer this."""

    code = Code.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class DataLoss(HeadraceError):
    """Stored bytes are gone or damaged."""

    code = Code.DATA_LOSS
    reason = "DATA_LOSS"


class Internal(HeadraceError):
    """A mistake inside a server; `metadata["error_id"]` is in its log."""

    code = Code.INTERNAL
    reason = "INTERNAL"


class Unknown(HeadraceError):
    """Another server failed without saying how."""


def _tree(root: type[HeadraceError]) -> Iterator[type[HeadraceError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


# The one table. It is closed when this module is imported: a class defined elsewhere does not travel.
BY_REASON: Mapping[str, type[HeadraceError]] = {
    error.reason: error for error in _tree(HeadraceError) if error is not HeadraceError
}
_BY_CODE: Mapping[int, type[HeadraceError]] = {error.code: error for error in HeadraceError.__subclasses__()}


def error_class(reason: str, code: int) -> type[HeadraceError]:
    """Find the class that stands for `reason`; for a reason of a newer server, the class of its canonical `code`."""
    return BY_REASON.get(reason) or _BY_CODE.get(code, Unknown)
