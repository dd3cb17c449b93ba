"""The asyncio twin of `headrace.rpc.calls`; gRPC wants one interceptor class for each kind of call here."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from headrace.rpc.calls import CallDetails, Defaults
from headrace.rpc.tracing import client_span, end_span


def aio_interceptors(defaults: Defaults) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors of an asyncio channel."""
    kinds = (AioUnaryUnary, AioUnaryStream, AioStreamUnary, AioStreamStream)
    return [kind(defaults) for kind in kinds]


class _AioCalls:
    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults

    async def _begin(
        self, continuation: Any, details: Any, request: Any, *, unary: bool = False
    ) -> tuple[Any, CallDetails]:
        with client_span(_text(details.method)) as (span, headers):
            completed = self._defaults.details(details, headers, unary=unary)
            call = await continuation(_aio_details(details.method, completed), request)
        if span is not None:
            call.add_done_callback(lambda ended: end_span(span, _code_of(ended)))
        return call, completed

    async def _response(self, continuation: Any, details: Any, request: Any, *, unary: bool = False) -> Any:
        call, completed = await self._begin(continuation, details, request, unary=unary)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise self._defaults.error(error, completed) from error
        self._defaults.reached = True
        return call

    async def _responses(self, continuation: Any, details: Any, request: Any) -> AsyncIterator[Any]:
        call, completed = await self._begin(continuation, details, request)
        return self._mapped(call, completed)

    async def _mapped(self, call: Any, details: CallDetails) -> AsyncIterator[Any]:
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._defaults.error(error, details) from error
        finally:
            call.cancel()


class AioUnaryUnary(_AioCalls, grpc.aio.UnaryUnaryClientInterceptor):
    """Calls with one request and one response."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call."""
        return await self._response(continuation, client_call_details, request, unary=True)


class AioUnaryStream(_AioCalls, grpc.aio.UnaryStreamClientInterceptor):
    """Calls with one request and a stream of responses."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call."""
        return await self._responses(continuation, client_call_details, request)


class AioStreamUnary(_AioCalls, grpc.aio.StreamUnaryClientInterceptor):
    """Calls with a stream of requests and one response."""

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make the call."""
        return await self._response(continuation, client_call_details, request_iterator)


class AioStreamStream(_AioCalls, grpc.aio.StreamStreamClientInterceptor):
    """Calls with streams both ways."""

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make the call."""
        return await self._responses(continuation, client_call_details, request_iterator)


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def _aio_details(method: Any, details: CallDetails) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method,  # bytes, whatever the types say, and it must stay what it was
        details.timeout,
        grpc.aio.Metadata(*details.metadata),
        details.credentials,
        details.wait_for_ready,
    )


def _code_of(call: Any) -> str:
    """Read the code of an ended asyncio call, whose `code()` would have to be awaited."""
    if call.cancelled():
        return "CANCELLED"
    error = call.exception() if hasattr(call, "exception") else None
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "OK"
