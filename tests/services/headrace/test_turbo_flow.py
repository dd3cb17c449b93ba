"""The turbo front end with callers who read slowly, who send to slow handlers, who vanish, and who are there when it stops."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from headrace.errors import HeadraceError
from headrace.registry.v1 import artifacts_pb2, artifacts_pb2_grpc, models_pb2, models_pb2_grpc
from headrace.rpc.deferred import answers_later
from headrace.rpc.turbo import connection, front_end
from headrace.testing import handler, serve, until
from tests.services.headrace.bare_http2 import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Wire,
    frame,
    literal,
    message,
    request_headers,
    wire,
)

REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
GET = "headrace.registry.v1.Models/GetModel"
DOWNLOAD = "headrace.registry.v1.Artifacts/Download"
UPLOAD = "headrace.registry.v1.Artifacts/Upload"
BODY = message(REQUEST.SerializeToString())
PART = bytes(1 << 16)
PARTS = 200


def echo(request: models_pb2.GetModelRequest, _: grpc.ServicerContext) -> models_pb2.Model:
    return models_pb2.Model(name=request.name)


@answers_later
def at_once(request: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.Model:
    return echo(request, context)


def others_are_served(channel: grpc.Channel) -> None:
    for _ in range(20):
        assert models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=20).name == REQUEST.name


class Gate:
    """A handler that stays inside until it is let out, or its caller is gone."""

    def __init__(self) -> None:
        self.inside, self.out, self.left = threading.Event(), threading.Event(), threading.Event()

    def __call__(
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> models_pb2.Model:
        context.add_callback(self.left.set)
        self.inside.set()
        assert self.out.wait(20)
        return models_pb2.Model(name=request.name)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.out.set()


def test_a_handler_waits_for_a_caller_who_does_not_read() -> None:
    sent: list[int] = []

    def download(_: Any, __: grpc.ServicerContext) -> Iterator[artifacts_pb2.DownloadResponse]:
        for number in range(PARTS):
            sent.append(number)
            yield artifacts_pb2.DownloadResponse(data=PART)

    with (
        serve(handler(DOWNLOAD, download), handler(GET, echo), turbo=True) as channel,
        wire(channel.address) as slow,
    ):
        slow.call(1, f"/{DOWNLOAD}", message(b""))
        until(lambda: len(sent) > 1 << 4)  # a window of the stream is full by then
        others_are_served(channel)
        assert len(sent) < PARTS // 4
        room = (1 << 30).to_bytes(4, "big")
        slow.send(frame(WINDOW_UPDATE, 0, 0, room) + frame(WINDOW_UPDATE, 0, 1, room))
        size = 0
        for one in slow.frames():
            size += len(one.payload) if one.kind == DATA else 0
            if one.kind == HEADERS and one.flags & END_STREAM:
                break
        assert size > PARTS * len(PART)


def test_a_caller_waits_for_a_handler_who_does_not_read() -> None:
    sent: list[int] = []
    reading = threading.Event()

    def upload(
        requests: Iterator[artifacts_pb2.UploadRequest], _: grpc.ServicerContext
    ) -> artifacts_pb2.Artifact:
        assert reading.wait(20)
        return artifacts_pb2.Artifact(size_bytes=sum(len(one.data) for one in requests))

    def parts() -> Iterator[artifacts_pb2.UploadRequest]:
        for number in range(PARTS):
            sent.append(number)
            yield artifacts_pb2.UploadRequest(data=PART)

    with serve(handler(UPLOAD, upload), handler(GET, echo), turbo=True) as channel:
        call = artifacts_pb2_grpc.ArtifactsStub(channel).Upload.future(parts(), timeout=60)
        until(lambda: len(sent) > 1 << 4)
        others_are_served(channel)
        assert len(sent) < PARTS // 2
        reading.set()
        assert call.result().size_bytes == PARTS * len(PART)


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_a_handler_hears_of_a_caller_who_has_vanished(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, says_goodbye: bool
) -> None:
    """Who says no goodbye, as a machine without power, does not answer when it is asked."""
    if not says_goodbye:
        monkeypatch.setattr(connection, "PING_S", 0.05)
        monkeypatch.setattr(connection, "PING_ANSWER_S", 0.05)
        monkeypatch.setattr(front_end, "TICK_S", 0.05)
    with serve(handler(GET, gate), turbo=True) as channel, wire(channel.address) as caller:
        caller.call(1, f"/{GET}", BODY)
        assert gate.inside.wait(20)
        if says_goodbye:
            caller.close()
        assert gate.left.wait(20)


@pytest.mark.parametrize("behavior", [echo, at_once], ids=["threads", "at once"])
def test_a_call_that_is_broken_off_as_it_comes_harms_no_other_on_its_connection(behavior: Any) -> None:
    opened = literal(request_headers(f"/{GET}"))
    with serve(handler(GET, behavior), turbo=True) as channel, wire(channel.address) as caller:
        broken = b"".join(
            frame(HEADERS, END_HEADERS, number, opened)
            + frame(DATA, END_STREAM, number, BODY)
            + frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big"))
            for number in range(1, 99, 2)
        )
        caller.send(broken).call(99, f"/{GET}", BODY)
        assert next(one for one in caller.frames() if one.kind == DATA and one.stream == 99).payload == BODY


def test_calls_that_run_are_answered_when_the_server_stops_and_no_others_are_begun(gate: Gate) -> None:
    with serve(handler(GET, gate), turbo=True) as channel, wire(channel.address) as caller:
        caller.call(1, f"/{GET}", BODY)
        assert gate.inside.wait(20)
        stopped = channel.server.stop(20)
        assert caller.next(GOAWAY).payload[:4] == b"\x7f\xff\xff\xff"  # soon; what is on its way still counts
        caller.send(frame(PING, ACK, 0, caller.next(PING).payload))
        assert caller.next(GOAWAY).payload[:4] == (1).to_bytes(4, "big")
        gate.out.set()
        assert caller.next(DATA).payload == BODY
        assert caller.is_closed()
        assert not channel.server.wait_for_termination(20)
        assert stopped.is_set()


@pytest.mark.parametrize("turbo", [False, True], ids=["grpcio", "turbo"])
def test_a_server_that_stops_may_be_told_to_be_quicker(gate: Gate, turbo: bool) -> None:
    with serve(handler(GET, gate), turbo=turbo) as channel:
        call = models_pb2_grpc.ModelsStub(channel).GetModel.future(REQUEST, timeout=60)
        assert gate.inside.wait(20)
        patient = channel.server.stop(60)
        assert channel.server.stop(0).wait(20)
        assert patient.wait(20)
        with pytest.raises(HeadraceError):
            call.result()


@pytest.mark.parametrize("turbo", [False, True], ids=["grpcio", "turbo"])
def test_whoever_waits_for_the_end_of_a_server_is_told_whether_it_has_come(turbo: bool) -> None:
    with serve(handler(GET, echo), turbo=turbo) as channel:
        assert channel.server.wait_for_termination(0.01)
        channel.server.stop(0)
        assert not channel.server.wait_for_termination(20)


def test_who_sends_no_settings_in_time_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_S", 0.05)
    monkeypatch.setattr(front_end, "TICK_S", 0.05)
    with serve(handler(GET, echo), turbo=True) as channel:
        silent = Wire(channel.address)
        assert silent.next(SETTINGS)
        assert silent.is_closed()
        silent.close()
