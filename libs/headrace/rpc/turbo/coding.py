"""From bytes to a call's request, and from what its handler returns or raises to bytes and trailers; wording as grpcio's."""

from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from headrace.rpc.layers import Handler
from headrace.rpc.turbo.context import Aborted, TurboContext
from headrace.rpc.turbo.headers import IDENTITY, Header
from headrace.rpc.turbo.messages import PREFIX_BYTES, framed, framed_compressed

log = structlog.get_logger(__name__)


class Coding:
    """How one call's messages are read and written.

    Args:
        limit: Largest message sent, bytes.
    """

    __slots__ = ("_context", "_handler", "_limit")

    def __init__(self, handler: Handler, context: TurboContext, limit: int) -> None:
        self._handler = handler
        self._context = context
        self._limit = limit

    def read(self, data: bytes) -> Any:
        """Read a request."""
        deserialize = self._handler.request_deserializer
        try:
            return deserialize(data) if deserialize else data
        except Exception as error:  # whatever a deserializer raises: the bytes are no such message
            raise Broken("Exception deserializing request!") from error

    def write(self, response: Any) -> Sequence[bytes]:
        """Write a message with its prefix."""
        serialize = self._handler.response_serializer
        try:
            message: bytes = serialize(response) if serialize else response
        except Exception as error:  # whatever a serializer raises: the handler returned something else
            raise Broken("Failed to serialize response!") from error
        encoding = self._context.next_encoding()
        if encoding != IDENTITY:
            return self._checked(framed_compressed(message, encoding))
        return self._checked(framed(message))

    def _checked(self, message: Sequence[bytes]) -> Sequence[bytes]:
        size = sum(map(len, message)) - PREFIX_BYTES
        if size > self._limit:
            raise Broken(
                f"SERVER: Sent message larger than max ({size} vs. {self._limit})",
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
        return message

    def trailers(self, error: BaseException) -> Sequence[Header]:
        """Say how a call ends whose handler, or message, raised."""
        if isinstance(error, Aborted):
            return self._context.trailers()
        if isinstance(error, Broken):
            return self._context.trailers_of_failure(error.code, str(error))
        if self._context.is_active():  # the layers have answered what they know
            log.error("handler_failed", exc_info=error)
        doing = "iterating responses" if self._handler.response_streaming else "calling application"
        return self._context.trailers_of_failure(grpc.StatusCode.UNKNOWN, f"Exception {doing}: {error}")


class Broken(Exception):
    """A message cannot be read or written."""

    def __init__(self, details: str, code: grpc.StatusCode = grpc.StatusCode.INTERNAL) -> None:
        super().__init__(details)
        self.code = code
