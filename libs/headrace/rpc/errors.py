"""From what a handler raises to a status; the only place that does this."""

import uuid
from typing import NoReturn

import grpc
import structlog
from google.rpc import status_pb2
from grpc_status import rpc_status

from headrace.errors import HeadraceError, Internal
from headrace.rpc.layers import Call, status_code
from headrace.rpc.status import to_status

log = structlog.get_logger()


def answer_error(call: Call, error: BaseException) -> None:
    """Answer a `HeadraceError` with its status, and any other exception with INTERNAL and an id that is in the log."""
    if isinstance(error, HeadraceError):
        log.debug("rpc_refused", reason=error.reason, message=error.message)
        _abort(call, to_status(error))
    if _is_gone(error, call) or status_code(call.context) is not None:
        return  # Nobody listens any more, or a foreign servicer called `context.abort`: the front end knows both.
    _abort(call, to_status(hidden(error)))


def _is_gone(error: BaseException, call: Call) -> bool:
    """Tell whether this is how gRPC says, to who reads a request stream, that the caller is gone."""
    return isinstance(error, grpc.RpcError) and not call.context.is_active()


def hidden(error: BaseException) -> Internal:
    """Log an unexpected exception and return what the caller may know of it: the id it is logged under."""
    error_id = uuid.uuid4().hex
    log.error("rpc_failed", error_id=error_id, exc_info=error)
    return Internal(
        f"internal error {error_id}; the server's log says more under this id",
        metadata={"error_id": error_id},
    )


def _abort(call: Call, status: status_pb2.Status) -> NoReturn:
    call.context.abort_with_status(rpc_status.to_status(status))
