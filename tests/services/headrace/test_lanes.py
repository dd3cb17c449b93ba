# length: one lane, and all that may befall it
"""What a call is when it comes by a lane: the same as by gRPC."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, cast

import grpc
import pytest
from prometheus_client import CollectorRegistry

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc import context as rpc_context
from headrace.rpc.authorization import Principal, Role
from headrace.rpc.lanes.channel import LaneChannel
from headrace.rpc.layers import Call
from headrace.rpc.server import Server
from headrace.testing import handler, serve
from headrace.types.v1 import lane_pb2

GET_MODEL = "headrace.registry.v1.Models/GetModel"
REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
TIMEOUT_S = 10.0
Behavior = Callable[[models_pb2.GetModelRequest, grpc.ServicerContext], models_pb2.Model]


@dataclass
class Lane:
    server: Server
    address: lane_pb2.Lane
    channel: LaneChannel

    def get(self, timeout_s: float = TIMEOUT_S) -> models_pb2.Model:
        model: models_pb2.Model = self.begin(timeout_s).result()
        return model

    def begin(self, timeout_s: float = TIMEOUT_S) -> Any:
        stub = models_pb2_grpc.ModelsStub(_UnaryAlone(self.channel).for_stubs)
        return stub.GetModel.future(REQUEST, timeout=timeout_s)


class _UnaryAlone(LaneChannel):
    """Lets a stub that has streams be made; they cannot be called."""

    def __init__(self, channel: LaneChannel) -> None:
        self.__dict__ = channel.__dict__

    def unary_stream(self, *_: object, **__: object) -> None:
        return None


@contextmanager
def lane(behavior: Behavior, **options: Any) -> Iterator[Lane]:
    with serve(handler(GET_MODEL, behavior), **options) as channel:
        address = invite(channel.server)
        opened = LaneChannel(address)
        try:
            yield Lane(channel.server, address, opened)
        finally:
            opened.close()


class Opener:
    """The context of the call that opened the lane is asked for no more."""

    def peer(self) -> str:
        return "unix:test"


def invite(server: Server) -> lane_pb2.Lane:
    return server.lanes.invite(cast("grpc.ServicerContext", Opener()))


@dataclass
class Waiting:
    """A handler that waits until its caller is gone."""

    entered: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.Model:
        context.add_callback(self.left.set)
        self.entered.set()
        assert self.left.wait(TIMEOUT_S)
        assert not context.is_active()
        return models_pb2.Model()


def named(request: models_pb2.GetModelRequest, _: grpc.ServicerContext) -> models_pb2.Model:
    return models_pb2.Model(name=request.name)


def test_a_stub_calls_by_a_lane_as_by_grpc() -> None:
    with lane(named) as opened:
        assert [opened.get().name for _ in range(3)] == [REQUEST.name] * 3


def test_an_error_arrives_with_all_its_details() -> None:
    def refuse(*_: object) -> models_pb2.Model:
        raise errors.NotFound("no such model", metadata={"name": "digits"}, field="name")

    with lane(refuse) as opened:
        for _ in range(2):  # and the lane is as good as before
            with pytest.raises(errors.NotFound, match="no such model") as caught:
                opened.get()
            assert (caught.value.metadata, caught.value.field) == ({"name": "digits"}, "name")


def test_an_unexpected_exception_leaks_nothing() -> None:
    def fail(*_: object) -> models_pb2.Model:
        raise RuntimeError("secret")

    with lane(fail) as opened, pytest.raises(errors.Internal) as caught:
        opened.get()
    assert "secret" not in caught.value.message


class Serving(NamedTuple):
    """A call that is served while another is made."""

    method: str
    principal: Principal | None
    request_id: str
    peer: str


def test_the_layers_of_the_server_are_around_it() -> None:
    """Who may not call by gRPC may not by a lane, and calls are counted."""
    metrics, seen = CollectorRegistry(), list[str]()

    def stranger(call: Call) -> Principal:
        seen.append(call.metadata(rpc_context.REQUEST_ID_METADATA))
        return Principal("stranger", "default", frozenset({Role.NODE}))

    token = rpc_context.served.set(Serving("/a.B/C", None, "one-id", ""))
    with (
        lane(named, authenticate=stranger, metrics=metrics) as opened,
        pytest.raises(errors.PermissionDenied, match="stranger lacks the role"),
    ):
        opened.get()
    rpc_context.served.reset(token)

    labels = {"method": GET_MODEL, "code": "PERMISSION_DENIED"}
    assert metrics.get_sample_value("headrace_rpc_handled_total", labels) == 1
    assert seen == ["one-id"]


def test_a_handler_sees_the_deadline() -> None:
    def remaining(_: object, context: grpc.ServicerContext) -> models_pb2.Model:
        return models_pb2.Model(description=str(context.time_remaining()))

    with lane(remaining) as opened:
        assert 30 < float(opened.get(timeout_s=60).description) <= 60


def test_who_cancels_a_call_wakes_its_handler() -> None:
    waiting = Waiting()
    with lane(waiting) as opened:
        call = opened.begin()
        assert waiting.entered.wait(TIMEOUT_S)
        call.cancel()
        assert waiting.left.wait(TIMEOUT_S)
        with pytest.raises(errors.Cancelled):
            call.result()
        assert not opened.channel.is_open


def test_who_vanishes_wakes_its_handler() -> None:
    waiting = Waiting()
    with lane(waiting) as opened:
        opened.begin()
        assert waiting.entered.wait(TIMEOUT_S)
        opened.channel.close()
        assert waiting.left.wait(TIMEOUT_S)


def test_news_of_a_lane_that_is_gone_does_not_end_the_one_in_its_place() -> None:
    """The system gives the next lane the number of the last one, which the server may hear of a moment too late."""

    def is_active(_: object, context: grpc.ServicerContext) -> models_pb2.Model:
        return models_pb2.Model(description=str(context.is_active()))

    with lane(is_active) as opened:
        assert opened.get().description == "True"
        for descriptor in range(3, 1024):
            opened.server.lanes.hung_up(descriptor)
        assert opened.get().description == "True"


def test_a_call_that_another_has_the_lane_for_too_long_is_given_up() -> None:
    waiting = Waiting()
    with lane(waiting) as opened:
        opened.begin()
        assert waiting.entered.wait(TIMEOUT_S)
        with pytest.raises(errors.DeadlineExceeded, match="another call has the lane"):
            opened.begin(timeout_s=0.05)


def test_a_server_that_stops_breaks_the_lane_and_the_caller_hears_it() -> None:
    waiting = Waiting()
    with lane(waiting) as opened:
        call = opened.begin()
        assert waiting.entered.wait(TIMEOUT_S)
        opened.server.stop(0)
        with pytest.raises(errors.Unavailable, match="the lane broke"):
            call.result()
        with pytest.raises(errors.Unavailable):
            opened.get()


def test_a_server_that_drains_finishes_what_came_by_a_lane() -> None:
    inside, out = threading.Event(), threading.Event()

    def wait(request: models_pb2.GetModelRequest, _: grpc.ServicerContext) -> models_pb2.Model:
        inside.set()
        assert out.wait(TIMEOUT_S)
        return models_pb2.Model(name=request.name)

    with lane(wait) as opened:
        call = opened.begin()
        assert inside.wait(TIMEOUT_S)
        drained = threading.Thread(target=opened.server.drain, args=(TIMEOUT_S,))
        drained.start()
        out.set()
        assert call.result().name == REQUEST.name
        drained.join(TIMEOUT_S)
        with pytest.raises(errors.Unavailable):
            opened.get()


def test_a_frozen_server_is_given_up_after_the_deadline() -> None:
    release = threading.Event()

    def freeze(*_: object) -> models_pb2.Model:
        release.wait(TIMEOUT_S)
        return models_pb2.Model()

    with lane(freeze) as opened:
        with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.1 s"):
            opened.get(timeout_s=0.1)
        release.set()


class Stranger:
    """A process that finds the socket and speaks it by hand."""

    def __init__(self, address: lane_pb2.Lane) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(f"\0{address.socket}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hear(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except ConnectionResetError:
            return b""


def framed(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


@pytest.mark.parametrize("token", [b"", b"x" * 16, b"x" * 4000])
def test_nobody_gets_in_without_a_token(token: bytes) -> None:
    with lane(named) as opened, Stranger(opened.address) as stranger:
        stranger.say(framed(token))
        assert stranger.hear() == b""


def test_a_token_lets_in_once() -> None:
    with lane(named) as opened, pytest.raises(errors.SharedMemoryUnavailable, match="lets nobody in"):
        LaneChannel(opened.address)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xff\xff\xff",  # four gigabytes
        framed(b"\xff" * 10),  # no message
        framed(lane_pb2.LaneRequest(method="x").SerializeToString()) * 2,  # two at once
    ],
)
def test_garbage_ends_the_lane_and_no_other(said: bytes) -> None:
    with lane(named) as opened:
        with Stranger(address := invite(opened.server)) as stranger:
            stranger.say(framed(address.token))
            assert stranger.hear() == framed(b"")
            stranger.say(said)
            assert stranger.hear() == b""
        assert opened.get().name == REQUEST.name


def test_an_rpc_that_is_not_there_is_told_so() -> None:
    with lane(named) as opened:
        for method in ("/headrace.registry.v1.Models/GetNothing", "nonsense", "/grpc.health.v1.Health/Check"):
            call = opened.channel.unary_unary(method, lambda _: b"", lambda answer: answer)
            with pytest.raises(errors.Unimplemented):
                call(None, timeout=TIMEOUT_S)


def test_a_request_that_cannot_be_read_is_refused() -> None:
    with lane(named) as opened:
        call = opened.channel.unary_unary(f"/{GET_MODEL}", lambda _: b"\xff", lambda answer: answer)
        with pytest.raises(errors.InvalidArgument, match="cannot be read"):
            call(None, timeout=TIMEOUT_S)


def test_one_lane_more_than_allowed_is_refused() -> None:
    with (
        lane(named, max_concurrent_rpcs=1) as opened,
        pytest.raises(errors.TooManyCalls, match="1 lanes are open"),
    ):
        invite(opened.server)


def test_a_lane_that_is_elsewhere_cannot_be_reached() -> None:
    with pytest.raises(errors.SharedMemoryUnavailable, match="another machine"):
        LaneChannel(lane_pb2.Lane(socket="headrace-nowhere", token=b"x" * 16))
