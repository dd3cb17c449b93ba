"""What a handler sees of a call that came by the turbo front end."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.rpc import status_pb2

from headrace.rpc.status import STATUS_METADATA
from headrace.rpc.turbo.headers import IDENTITY, OK, Head, Header, escaped, trailers_of, write_metadata
from headrace.rpc.turbo.stream import Stream

log = structlog.get_logger(__name__)

_ENCODINGS = {
    grpc.Compression.NoCompression: IDENTITY,
    grpc.Compression.Deflate: b"deflate",
    grpc.Compression.Gzip: b"gzip",
}
Post: TypeAlias = "Callable[[Callable[[], object]], None]"  # have the loop's thread do something


class Aborted(Exception):
    """A handler's call was ended by `abort` or `abort_with_status`."""


class TurboContext(grpc.ServicerContext):
    """A `grpc.ServicerContext`.

    Args:
        stream: Its place on its connection, which knows the caller.
        post: Has the thread of the stream's loop do something.
    """

    def __init__(self, head: Head, stream: Stream, post: Post) -> None:
        self._head = head
        self._stream = stream
        self._post = post
        self._peer, self._identity = stream.connection.peer, stream.connection.identity
        self._deadline = math.inf if head.timeout_s is None else time.monotonic() + head.timeout_s
        self._lock = threading.Lock()
        self._active = True
        self._callbacks: list[Callable[[], None]] = []
        self._code: grpc.StatusCode | int | None = None
        self._details: str | None = None
        self._status: status_pb2.Status | None = None
        self._trailing: list[Header] = []
        self._plain = False  # the next message
        self._begun = False  # with the answer's headers, that is

    def end(self) -> None:
        """Tell that the call is over, or its caller gone: callbacks run, once."""
        with self._lock:
            self._active = False
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # the handler's own: what others wait for must not be lost
                log.error("callback_failed", exc_info=error)

    def trailers(self) -> Sequence[Header]:
        """Return how the call ends, as its handler said."""
        if not (self._code or self._details or self._trailing):
            return OK
        return self._said(grpc.StatusCode.OK, "")

    def trailers_of_failure(self, code: grpc.StatusCode, details: str) -> Sequence[Header]:
        """Return how the call ends that failed so, where its handler has not said otherwise."""
        return self._said(code, details)

    def _said(self, code: grpc.StatusCode, details: str) -> Sequence[Header]:
        if self._status is not None:
            return [*trailers_of(self._status), *self._trailing]
        chosen = code if self._code is None else self._code
        number = chosen.value[0] if isinstance(chosen, grpc.StatusCode) else chosen
        text = details if self._details is None else self._details
        message = [(b"grpc-message", escaped(text))] if text else []
        return [(b"grpc-status", b"%d" % number), *message, *self._trailing]

    def is_active(self) -> bool:
        """Whether somebody waits for the answer."""
        return self._active

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, at least 0; without one, more than anybody waits, as grpcio says."""
        return max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> bool:
        """End the call; return whether it ran."""
        active = self._active
        self._post(self._stream.cancel)
        return active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Run `callback` when the call is over; return False, without running it, if it is."""
        with self._lock:
            if self._active:
                self._callbacks.append(callback)
            return self._active

    def invocation_metadata(self) -> Any:
        """Return what the caller sent beside the request, as pairs."""
        return self._head.metadata

    def peer(self) -> str:
        """Return who calls."""
        return self._peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the names in the caller's certificate; None without one."""
        key = self.peer_identity_key()
        return self._identity[key] if key else None

    def peer_identity_key(self) -> str | None:
        """Return the kind of `peer_identities`."""
        return next(
            (key for key in ("x509_subject_alternative_name", "x509_common_name") if key in self._identity),
            None,
        )

    def auth_context(self) -> Mapping[str, Any]:
        """Return what the caller was authenticated by."""
        return self._identity

    def code(self) -> grpc.StatusCode | int | None:
        """Return the code that was set; None before."""
        return self._code

    def details(self) -> str | None:
        """Return the text that was set; None before."""
        return self._details

    def set_code(self, code: grpc.StatusCode | int) -> None:
        """Set how the call will end."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text that goes with the code."""
        self._details = details

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with a code, which is to be that of a failure, and a text."""
        ok = code is grpc.StatusCode.OK
        self._code, self._details = (grpc.StatusCode.UNKNOWN, "") if ok else (code, details)
        raise Aborted

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status that may have details."""
        self._code, self._details = status.code, status.details
        for key, value in status.trailing_metadata or ():
            if key == STATUS_METADATA and isinstance(value, bytes):
                self._status = status_pb2.Status.FromString(value)
            else:
                self._trailing += write_metadata([(key, value)])
        raise Aborted

    def set_compression(self, compression: grpc.Compression) -> None:
        """Have answers compressed, if the caller accepts that and has not been told otherwise by headers that are out."""
        encoding = _ENCODINGS[compression]
        if encoding in self._head.accepts and not self._begun:
            self._stream.encoding = encoding

    def disable_next_message_compression(self) -> None:
        """Send the next message plain."""
        self._plain = True

    def next_encoding(self) -> bytes:
        """Return how the next message is compressed."""
        plain, self._plain, self._begun = self._plain, False, True
        return IDENTITY if plain else self._stream.encoding

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send headers before the first message.

        Raises:
            ValueError: They are out already.
        """
        if self._begun:
            raise ValueError("Initial metadata no longer allowed!")
        headers = write_metadata(initial_metadata)
        self._begun = True
        self._post(partial(self._stream.begin, headers))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send metadata after the last message."""
        self._trailing = write_metadata(trailing_metadata)
