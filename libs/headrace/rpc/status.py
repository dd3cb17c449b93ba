"""Errors on the wire: `HeadraceError` to `google.rpc.Status` and back."""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from headrace.errors import (
    DOMAIN,
    Cancelled,
    DeadlineExceeded,
    HeadraceError,
    QuotaExceeded,
    Unavailable,
    error_class,
)

STATUS_METADATA = "grpc-status-details-bin"
# A message repeats what the caller sent. It travels three times in the trailers, percent-encoded in one of them, and gRPC
# replaces the status by RESOURCE_EXHAUSTED where trailers pass 8 KiB.
MAX_MESSAGE_BYTES = 1024


def to_status(error: HeadraceError) -> status_pb2.Status:
    """Put an error into a status with `ErrorInfo`, and `BadRequest`, `QuotaFailure` and `RetryInfo` where the error has them."""
    message = _shortened(error.message)
    status = status_pb2.Status(code=error.code, message=message)
    status.details.append(_packed(_error_info(error)))
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message, reason=error.reason
        )
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if isinstance(error, QuotaExceeded):
        exceeded = error_details_pb2.QuotaFailure.Violation(
            subject=error.metadata.get("subject", ""), description=message
        )
        status.details.append(_packed(error_details_pb2.QuotaFailure(violations=[exceeded])))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration(
            nanos=round(error.retry_after_s % 1 * 1e9), seconds=int(error.retry_after_s)
        )
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return message
    return f"{encoded[: MAX_MESSAGE_BYTES - 3].decode(errors='ignore')}..."


def _error_info(error: HeadraceError) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)


def _packed(
    detail: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.QuotaFailure
    | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def from_status(status: status_pb2.Status) -> HeadraceError:
    """Build the error again that a server put into `status`; its class is found by the reason."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        # At most one of the three takes it; a detail of another type is left alone.
        _ = detail.Unpack(info) or detail.Unpack(bad_request) or detail.Unpack(retry)
    return error_class(info.reason if info.domain == DOMAIN else "", status.code)(
        status.message,
        metadata=info.metadata,
        field=bad_request.field_violations[0].field if bad_request.field_violations else None,
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds()
        if retry.HasField("retry_delay")
        else None,
    )


def from_rpc_error(
    error: grpc.RpcError, *, address: str, method: str, timeout_s: float | None
) -> HeadraceError:
    """Turn what a stub raised into the error that the server raised, or into one that says why none came.

    Args:
        error: What the stub raised; a `grpc.Call` too, as gRPC's always are.
        address: Where the call went.
        method: `/package.Service/Method`.
        timeout_s: The deadline the call had, if any.
    """
    code, details, metadata = _parts(error)
    for key, value in metadata:
        if key == STATUS_METADATA and isinstance(value, bytes):
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break  # Not ours, then: the plain code and text still hold.
    rpc = method.rpartition(".")[2]
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"cannot reach {address} ({details}); check that the service runs there and the address",
            metadata={"address": address},
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        limit = "time" if timeout_s is None else f"{timeout_s:g} s"
        return DeadlineExceeded(
            f"{rpc} at {address} did not answer within {limit}; try again or allow more time"
        )
    if code is grpc.StatusCode.CANCELLED:
        return Cancelled(f"{rpc} at {address} was cancelled ({details})")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{address} does not serve {method.lstrip('/')} ({details}); check the address"
    return error_class("", code.value[0])(f"{details} ({rpc} at {address})")


def _parts(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, list[tuple[str, str | bytes]]]:
    """Read code, text and trailing metadata, which sync and asyncio calls offer alike."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), f"{type(error)} is not from a stub"
    metadata = error.trailing_metadata()
    return error.code(), error.details() or "", list(metadata) if metadata is not None else []
