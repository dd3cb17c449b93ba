"""From bytes to a call's request, and from what its handler returns or raises to bytes and trailers; wording as grpcio's."""

from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from headrace.rpc.layers import Handler
from headrace.rpc.turbo.context import Aborted, TurboContext
from headrace.rpc.turbo.headers import IDENTITY, Header, escaped
from headrace.rpc.turbo.messages import PREFIX_BYTES, framed, framed_compressed

log = structlog.get_logger(__name__)


class Coding:
    """How one call's messages are read and written.

    Args:
        encoding: Of the answer's messages, where the handler does not want them plain.
        limit: Largest message sent, bytes.
    """

    __slots__ = ("_context", "_encoding", "_handler", "_limit")

    def __init__(self, handler: Handler, context: TurboContext, encoding: bytes, limit: int) -> None:
        self._handler = handler
        self._context = context
        self._encoding = encoding
        self._limit = limit

    def read(self, data: bytes) -> Any:
        """Read a request."""
        deserialize = self._handler.request_deserializer
        try:
            return deserialize(data) if deserialize else data
        except Exception as error:  # whatever a deserializer raises: the bytes are no such message
            raise Broken("Exception deserializing request!") from error

    def write(self, response: Any) -> bytes:
        """Write a message with its prefix."""
        serialize = self._handler.response_serializer
        try:
            message: bytes = serialize(response) if serialize else response
        except Exception as error:  # whatever a serializer raises: the handler returned something else
            raise Broken("Exception serializing response!") from error
        if self._encoding != IDENTITY and self._context.compressed:
            return self._checked(framed_compressed(message, self._encoding))
        return self._checked(framed(message))

    def _checked(self, message: bytes) -> bytes:
        size = len(message) - PREFIX_BYTES
        if size > self._limit:
            raise Broken(
                f"Sent message larger than max ({size} vs. {self._limit})", grpc.StatusCode.RESOURCE_EXHAUSTED
            )
        return message

    def trailers(self, error: BaseException) -> Sequence[Header]:
        """Say how a call ends whose handler, or message, raised."""
        if isinstance(error, Aborted):
            return self._context.trailers()
        if isinstance(error, Broken):
            return error.trailers
        if self._context.is_active():  # the layers have answered what they know
            log.error("handler_failed", exc_info=error)
        return _said(grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}")


class Broken(Exception):
    """A message cannot be read or written."""

    def __init__(self, details: str, code: grpc.StatusCode = grpc.StatusCode.INTERNAL) -> None:
        super().__init__(details)
        self.trailers = _said(code, details)


def _said(code: grpc.StatusCode, details: str) -> Sequence[Header]:
    number: int = code.value[0]
    return ((b"grpc-status", b"%d" % number), (b"grpc-message", escaped(details)))
