"""What a handler sees of a call that came by a lane."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from headrace.rpc.status import STATUS_METADATA


class LaneContext(grpc.ServicerContext):
    """A `grpc.ServicerContext` for unary calls.

    Args:
        opener: The context of the gRPC call that opened the lane: who is at the other end.
        timeout_s: Seconds until the deadline, from now.
    """

    def __init__(self, opener: grpc.ServicerContext, metadata: Mapping[str, str], timeout_s: float) -> None:
        self._opener = opener
        self._metadata = tuple(metadata.items())
        self._deadline = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._active = True
        self._callbacks: list[Callable[[], None]] = []
        self._code: grpc.StatusCode | int | None = None
        self.status = b""  # an encoded google.rpc.Status once the call was aborted

    def end(self) -> None:
        """Tell that the call is over, or its caller gone: callbacks run, once."""
        with self._lock:
            self._active = False
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def is_active(self) -> bool:
        """Whether somebody waits for the answer."""
        return self._active

    def time_remaining(self) -> float:
        """Return the seconds until the deadline, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> bool:
        """End the call; return whether it ran."""
        active = self._active
        self.end()
        return active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Run `callback` when the call is over; return False, without running it, if it is."""
        with self._lock:
            if self._active:
                self._callbacks.append(callback)
            return self._active

    def invocation_metadata(self) -> Any:
        """Return what the caller sent beside the request, as pairs."""
        return self._metadata

    def peer(self) -> str:
        """Return who calls: as the call that opened the lane said."""
        return self._opener.peer()

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return what the opener was known by."""
        return self._opener.peer_identities()

    def peer_identity_key(self) -> str | None:
        """Return the kind of `peer_identities`."""
        return self._opener.peer_identity_key()

    def auth_context(self) -> Mapping[str, bytes]:
        """Return what the opener was authenticated by."""
        return self._opener.auth_context()

    def code(self) -> grpc.StatusCode | int | None:
        """Return the code that was set; None before."""
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set how the call will end."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Do nothing: errors travel as a whole status."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Refused: handlers of this house raise `headrace.errors`, which carry more."""
        raise NotImplementedError(f"abort({code}, {details!r}): raise an error of headrace.errors")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status that has its details."""
        self._code = status.code
        details = dict(status.trailing_metadata or ())[STATUS_METADATA]
        assert isinstance(details, bytes)
        self.status = details
        raise Aborted

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: memory is not compressed."""

    def disable_next_message_compression(self) -> None:
        """Do nothing."""

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Refused: a lane answers once."""
        raise NotImplementedError("a lane carries no metadata back")

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Refused: a lane answers once."""
        raise NotImplementedError("a lane carries no metadata back")


class Aborted(Exception):
    """A handler's call was ended by `abort_with_status`."""
