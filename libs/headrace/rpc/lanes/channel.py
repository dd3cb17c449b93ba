"""The side of a lane that calls.

channel = LaneChannel(stub.OpenLane(request).lane)
SharedMemoryStub(channel.for_stubs).PullShared.future(request, timeout=5).result()
"""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

import grpc
from google.rpc import status_pb2
from google.rpc.code_pb2 import Code

from headrace.errors import Cancelled, DeadlineExceeded, SharedMemoryUnavailable, Unavailable
from headrace.rpc import context
from headrace.rpc.lanes import frames
from headrace.rpc.status import from_status
from headrace.rpc.tracing import client_span, end_span
from headrace.types.v1 import lane_pb2

_LATE_S = 1.0  # the server answers before the deadline; this long after it, it is frozen
_CONNECT_S = 5.0  # it has just invited us: whatever takes longer is not there, or not ours

Request = TypeVar("Request")
Response = TypeVar("Response")


class LaneChannel:
    """One lane, for one call at a time.

    Raises:
        SharedMemoryUnavailable: There is no such socket here: the server is on another machine, or in another container.
    """

    def __init__(self, lane: lane_pb2.Lane) -> None:
        self._connected = _connect(lane)
        self._busy = threading.Lock()
        self.is_open = True

    @property
    def for_stubs(self) -> grpc.Channel:
        """As what a generated stub of unary rpcs is made of."""
        return cast("grpc.Channel", self)

    @property
    def is_free(self) -> bool:
        """Whether a call can begin at once."""
        return self.is_open and not self._busy.locked()

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        _registered_method: bool = False,
    ) -> "LaneMethod[Any, Any]":
        """Return a unary rpc."""
        return LaneMethod(self, method, request_serializer, response_deserializer)

    def begin(self, request: bytes, timeout_s: float) -> None:
        """Send a call, as soon as the one before is over; `finish` ends it.

        Raises:
            Unavailable: The lane is broken.
            DeadlineExceeded: The call before is not over in time.
        """
        if not self._busy.acquire(timeout=timeout_s):
            raise DeadlineExceeded(f"another call has the lane for {timeout_s:g} s; call by gRPC meanwhile")
        try:
            self._connected.settimeout(timeout_s + _LATE_S)
            frames.send(self._connected, request)
        except OSError as error:
            self._busy.release()
            raise self._broken(error) from error

    def finish(self, timeout_s: float) -> bytes:
        """Wait for the answer.

        Raises:
            Unavailable: The server is gone; whether it did what was asked is not known.
            DeadlineExceeded: It is silent.
        """
        try:
            frame = frames.receive(self._connected)
        except TimeoutError as error:
            self.close()
            raise DeadlineExceeded(
                f"no answer by the lane within {timeout_s:g} s; the server is frozen"
            ) from error
        except (OSError, frames.BadFrame) as error:
            raise self._broken(error) from error
        finally:
            self._busy.release()
        if frame is None:
            raise self._broken("the server hung up")
        return frame

    def close(self) -> None:
        """Hang up; a call that runs ends as Unavailable."""
        self.is_open = False
        with suppress(OSError):  # it may be broken already
            self._connected.shutdown(socket.SHUT_RDWR)

    def _broken(self, why: object) -> Unavailable:
        self.close()
        return Unavailable(f"the lane broke ({why}); check that the service runs")


class LaneMethod(Generic[Request, Response]):
    """One rpc on a lane, as a stub calls it."""

    def __init__(
        self,
        channel: LaneChannel,
        method: str,
        serialize: Callable[[Request], bytes],
        deserialize: Callable[[bytes], Response],
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize

    def __call__(self, request: Request, timeout: float) -> Response:
        """Call, and wait for the answer."""
        return self.future(request, timeout).result()

    def future(self, request: Request, timeout: float) -> "LaneCall[Response]":
        """Begin a call; `timeout` in seconds."""
        return LaneCall(self._channel, self._method, self._serialize(request), timeout, self._deserialize)


class LaneCall(Generic[Response]):
    """A call that runs: ask for its result, once. Cancelling it costs the lane."""

    def __init__(
        self,
        channel: LaneChannel,
        method: str,
        request: bytes,
        timeout_s: float,
        deserialize: Callable[[bytes], Response],
    ) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._deserialize = deserialize
        self._cancelled = False
        with client_span(method) as (self._span, headers):
            message = lane_pb2.LaneRequest(
                method=method, timeout_s=timeout_s, metadata=_metadata(headers), request=request
            )
            channel.begin(message.SerializeToString(), timeout_s)

    def cancel(self) -> bool:
        """Let nobody wait for the answer any more."""
        self._cancelled = True
        self._channel.close()
        return True

    def result(self) -> Response:
        """Wait for the response.

        Raises:
            HeadraceError: What the server raised; Unavailable or DeadlineExceeded if it did not answer; Cancelled.
        """
        code = "UNAVAILABLE"
        try:
            answer = lane_pb2.LaneResponse.FromString(self._channel.finish(self._timeout_s))
            status = status_pb2.Status.FromString(answer.status)
            code = Code.Name(status.code)
        except (Unavailable, DeadlineExceeded) as error:
            if self._cancelled:
                raise Cancelled("the call was cancelled by its caller") from error
            raise
        finally:
            end_span(self._span, code)
        if answer.status:
            raise from_status(status)
        return self._deserialize(answer.response)


def _metadata(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    metadata = dict(headers)
    if context.current_request_id():  # one id for all that a call makes other services do
        metadata[context.REQUEST_ID_METADATA] = context.current_request_id()
    return metadata


def _connect(lane: lane_pb2.Lane) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(_CONNECT_S)
        connected.connect(f"\0{lane.socket}")
        frames.send(connected, lane.token)
        welcome = frames.receive(connected)
    except (OSError, frames.BadFrame) as error:
        connected.close()
        raise SharedMemoryUnavailable(
            f"no lane {lane.socket} here ({error}): the service is on another machine, or in another container"
        ) from error
    if welcome is None:
        connected.close()
        raise SharedMemoryUnavailable(
            f"lane {lane.socket} lets nobody in with this token; ask for another one"
        )
    return connected
