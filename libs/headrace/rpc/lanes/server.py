"""The side of a lane that answers."""

import os
import secrets
import select
import socket
import struct
import threading
from collections import OrderedDict
from contextlib import suppress
from contextvars import Context

import grpc
import structlog
from google.protobuf.message import DecodeError

from headrace.errors import (
    HeadraceError,
    InvalidArgument,
    SharedMemoryUnavailable,
    TooManyCalls,
    Unimplemented,
)
from headrace.rpc.lanes import frames
from headrace.rpc.lanes.context import Aborted, LaneContext
from headrace.rpc.layers import FindHandler
from headrace.rpc.status import to_status
from headrace.types.v1 import lane_pb2

log = structlog.get_logger(__name__)

_INVITED_S = 10.0  # a lane that was asked for is used at once
_MOST_INVITED = 64
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: ucred of unix(7)
_TOKEN_BYTES = 16
_HANG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLONESHOT if hasattr(select, "EPOLLRDHUP") else 0


class Lanes:
    """The lanes of one server: a socket, and one thread per lane that is open.

    Args:
        find: Returns the handler of a method, layers included, or None.
        limit: Lanes open at a time.
    """

    def __init__(self, find: FindHandler, limit: int) -> None:
        self._find = find
        self._limit = limit
        self._lock = threading.Lock()
        self._invited: OrderedDict[bytes, grpc.ServicerContext] = OrderedDict()
        self._open: dict[int, _Lane] = {}
        self._name = ""
        self._listening: socket.socket | None = None
        self._watched: select.epoll | None = None
        self._closed = False

    def invite(self, opener: grpc.ServicerContext) -> lane_pb2.Lane:
        """Say where a lane is, and let one come that was opened by this call.

        Raises:
            SharedMemoryUnavailable: This system has no such sockets.
            TooManyCalls: As many lanes as may be are open.
        """
        with self._lock:
            if self._listening is None:
                self._listen()
            if len(self._open) >= self._limit:
                raise TooManyCalls(
                    f"{self._limit} lanes are open already; call by gRPC", metadata={"limit": self._limit}
                )
            token = secrets.token_bytes(_TOKEN_BYTES)
            self._invited[token] = opener
            while len(self._invited) > _MOST_INVITED:
                self._invited.popitem(last=False)
            return lane_pb2.Lane(socket=self._name, token=token)

    def close(self, *, at_once: bool) -> None:
        """Hang up on everybody.

        Args:
            at_once: Also on those who wait for an answer; else they get it first.
        """
        with self._lock:
            self._closed = True
            listening, lanes = self._listening, list(self._open.values())
            self._invited.clear()
        if listening is not None:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        for lane in lanes:
            lane.hang_up(socket.SHUT_RDWR if at_once else socket.SHUT_RD)

    def _listen(self) -> None:
        if not _HANG_UP:
            raise SharedMemoryUnavailable("lanes need Linux")
        name = f"headrace-{secrets.token_hex(_TOKEN_BYTES)}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(f"\0{name}")
        listening.listen()
        self._name, self._listening, self._watched = name, listening, select.epoll()
        threading.Thread(target=self._accept, args=(listening,), name="lanes", daemon=True).start()
        threading.Thread(target=self._watch, args=(self._watched,), name="lanes-watch", daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while not self._closed:
            try:
                connected, _ = listening.accept()
            except OSError:
                break
            threading.Thread(target=self._serve, args=(connected,), name="lane", daemon=True).start()
        listening.close()

    def _watch(self, watched: select.epoll) -> None:
        """Notice callers that hang up while they wait for an answer."""
        while not self._closed:
            for descriptor, _ in watched.poll():
                self.hung_up(descriptor)

    def hung_up(self, descriptor: int) -> None:
        """Take note that the caller of the lane with this descriptor has hung up, if it is still that lane."""
        with self._lock:  # so that it is not closed while it is looked at
            lane = self._open.get(descriptor)
            if lane is None or not lane.is_left:
                return  # another lane's by now: the one that was meant has ended
        lane.left()

    def _serve(self, connected: socket.socket) -> None:
        with connected:
            opener = self._admit(connected)
            if opener is None:
                return
            lane = _Lane(connected, self._find, opener)
            if not self._enter(lane):
                return
            try:
                frames.send(connected, b"")
                lane.serve()
            except (OSError, frames.BadFrame, DecodeError) as error:
                log.debug("lane_broken", error=str(error))
            finally:
                self._leave(lane)

    def _admit(self, connected: socket.socket) -> grpc.ServicerContext | None:
        """Return who opened this lane; None if nobody did."""
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != os.getuid():
            return None
        connected.settimeout(_INVITED_S)
        try:
            token = frames.receive(connected)
        except (OSError, frames.BadFrame):
            return None
        connected.settimeout(None)
        with self._lock:
            return self._invited.pop(token, None) if token else None

    def _enter(self, lane: "_Lane") -> bool:
        with self._lock:
            if self._closed or len(self._open) >= self._limit:
                return False
            self._open[lane.descriptor] = lane
        assert self._watched is not None
        self._watched.register(lane.descriptor, _HANG_UP)
        return True

    def _leave(self, lane: "_Lane") -> None:
        assert self._watched is not None
        self._watched.unregister(lane.descriptor)
        with self._lock:
            del self._open[lane.descriptor]


class _Lane:
    """One lane, served by one thread."""

    def __init__(self, connected: socket.socket, find: FindHandler, opener: grpc.ServicerContext) -> None:
        self._connected = connected
        self._find = find
        self._opener = opener
        self._lock = threading.Lock()
        self._serving: LaneContext | None = None
        self._left = False
        self.descriptor = connected.fileno()

    def serve(self) -> None:
        """Answer calls until the caller hangs up."""
        while (frame := frames.receive(self._connected)) is not None:
            answer = self._answer(lane_pb2.LaneRequest.FromString(frame))
            frames.send(self._connected, answer.SerializeToString())

    @property
    def is_left(self) -> bool:
        """Whether the caller has hung up."""
        looking = select.poll()
        looking.register(self.descriptor, select.POLLRDHUP)
        return bool(looking.poll(0))

    def left(self) -> None:
        """Tell the call that is served that its caller is gone."""
        with self._lock:
            self._left = True
            serving = self._serving
        if serving:
            serving.end()

    def hang_up(self, how: int) -> None:
        """Hear nothing more (SHUT_RD), which ends the lane when the answer it owes is out; or break it off (SHUT_RDWR)."""
        with suppress(OSError):
            self._connected.shutdown(how)

    def _answer(self, request: lane_pb2.LaneRequest) -> lane_pb2.LaneResponse:
        context = LaneContext(self._opener, request.metadata, request.timeout_s)
        with self._lock:
            self._serving = context
            left = self._left
        if left:
            context.end()
        try:
            # A context of its own, as gRPC gives each call.
            return Context().run(self._handle, request, context)
        finally:
            self._serving = None
            context.end()

    def _handle(self, request: lane_pb2.LaneRequest, context: LaneContext) -> lane_pb2.LaneResponse:
        handler = self._find(request.method)
        if handler is None or handler.unary_unary is None:
            return _failed(Unimplemented(f"{request.method} is not served on a lane; call it by gRPC"))
        assert handler.request_deserializer is not None
        assert handler.response_serializer is not None
        try:
            message = handler.request_deserializer(request.request)
        except DecodeError as error:
            return _failed(InvalidArgument(f"the request of {request.method} cannot be read: {error}"))
        try:
            response = handler.unary_unary(message, context)
        except Aborted:
            return lane_pb2.LaneResponse(status=context.status)
        return lane_pb2.LaneResponse(response=handler.response_serializer(response))


def _failed(error: HeadraceError) -> lane_pb2.LaneResponse:
    return lane_pb2.LaneResponse(status=to_status(error).SerializeToString())
