"""What happens to every outgoing call, sync or asyncio: a deadline, metadata, a span, and errors of our own tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from headrace.errors import Cancelled, HeadraceError
from headrace.rpc import context
from headrace.rpc.status import from_rpc_error
from headrace.rpc.tracing import client_span, end_span


class CallDetails(NamedTuple):
    """What gRPC wants to know of a call; it reads these by name."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None = None


@dataclass
class Defaults:
    """What a channel adds to its calls.

    `timeout_s` is the deadline of a unary call whose caller gave none. `project` is where names without a project
    belong; empty leaves that to the server. `patient`: once the server has answered (`reached`), a unary call waits for its
    return until the deadline; before, or without it, a server that is not there is told at once.
    """

    address: str
    timeout_s: float
    project: str
    patient: bool = False
    reached: bool = False

    def details(self, details: Any, headers: list[tuple[str, str]], *, unary: bool) -> CallDetails:
        """Complete what the caller gave."""
        timeout = self.timeout_s if unary and details.timeout is None else details.timeout
        metadata = [*(details.metadata or ()), *self._metadata(), *headers]
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        compression = getattr(details, "compression", None)
        wait_for_ready = details.wait_for_ready or (unary and self.patient and self.reached)
        return CallDetails(method, timeout, metadata, details.credentials, wait_for_ready, compression)

    def _metadata(self) -> Iterator[tuple[str, str]]:
        if self.project:
            yield context.PROJECT_METADATA, self.project
        if context.current_request_id():  # one id for all that a call makes other services do
            yield context.REQUEST_ID_METADATA, context.current_request_id()

    def error(self, error: grpc.RpcError, details: CallDetails) -> HeadraceError:
        """Turn what the stub raised into an error of our own."""
        return from_rpc_error(error, address=self.address, method=details.method, timeout_s=details.timeout)


class MappedCall(Iterator[Any]):
    """A sync call, as gRPC gives it, that raises errors of our own tree."""

    def __init__(self, call: Any, details: CallDetails, defaults: Defaults) -> None:
        self._call = call
        self._details = details
        self._defaults = defaults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise self._defaults.error(error, self._details) from error

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the response and return it."""
        try:
            response = self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._defaults.error(error, self._details) from error
        except grpc.FutureCancelledError as error:  # no RpcError: the call was cancelled from this side
            raise self._cancelled() from error
        self._defaults.reached = True
        return response

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return what `result` would raise, if anything."""
        try:
            error: BaseException | None = self._call.exception(timeout)
        except grpc.FutureCancelledError:
            return self._cancelled()
        return self._defaults.error(error, self._details) if isinstance(error, grpc.RpcError) else error

    def _cancelled(self) -> Cancelled:
        return Cancelled(f"the call of {self._details.method} was cancelled by its caller")


class SyncCalls(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """The interceptor of a sync channel."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make a call with one request and one response."""
        return self._make(continuation, client_call_details, request, unary=True)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make a call with one request and a stream of responses."""
        return self._make(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call with a stream of requests and one response."""
        return self._make(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call with streams both ways."""
        return self._make(continuation, client_call_details, request_iterator)

    def _make(self, continuation: Any, details: Any, request: Any, *, unary: bool = False) -> MappedCall:
        with client_span(details.method) as (span, headers):
            completed = self._defaults.details(details, headers, unary=unary)
            call = continuation(completed, request)
        if span is not None:
            call.add_done_callback(lambda ended: end_span(span, ended.code().name))
        return MappedCall(call, completed, self._defaults)
