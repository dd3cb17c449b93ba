"""What goes wrong in or around one call of the turbo front end harms no other: its caller is told, and nothing of it is kept."""

import threading
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import grpc
import pytest

from headrace.errors import Aborted, Internal
from headrace.registry.v1 import artifacts_pb2, models_pb2, models_pb2_grpc
from headrace.rpc.deferred import answers_later
from headrace.rpc.turbo import calls, connection
from headrace.rpc.turbo.front_end import TurboFrontEnd
from headrace.testing import handler, serve, until
from tests.services.headrace.bare_http2 import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
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
UPLOAD = "headrace.registry.v1.Artifacts/Upload"
BODY = message(REQUEST.SerializeToString())
OPEN_GET = literal(request_headers(f"/{GET}"))
OPEN_UPLOAD = literal(request_headers(f"/{UPLOAD}"))


def leaves(request: models_pb2.GetModelRequest, _: grpc.ServicerContext) -> models_pb2.Model:
    if request.name == REQUEST.name:
        return models_pb2.Model(name=request.name)
    raise SystemExit("as a script does that was meant for a process of its own")


@answers_later
def leaves_later(request: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.Model:
    return leaves(request, context)


@pytest.mark.parametrize("turbo", [False, True], ids=["grpcio", "turbo"])
@pytest.mark.parametrize("behavior", [leaves, leaves_later])
def test_a_handler_that_wants_to_end_the_process_ends_its_call(
    behavior: Callable[..., Any], turbo: bool
) -> None:
    with serve(handler(GET, behavior), turbo=turbo) as channel:
        models = models_pb2_grpc.ModelsStub(channel)
        with pytest.raises(Internal, match="internal error"):
            models.GetModel(models_pb2.GetModelRequest(name="another"), timeout=20)
        assert models.GetModel(REQUEST, timeout=20).name == REQUEST.name


def test_a_text_that_is_no_unicode_is_told_as_far_as_it_is() -> None:
    def abort(_: Any, context: grpc.ServicerContext) -> models_pb2.Model:
        context.abort(grpc.StatusCode.ABORTED, "a file named \udc80")

    with serve(handler(GET, abort), turbo=True) as channel, pytest.raises(Aborted, match=r"a file named \?"):
        models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=20)


def test_a_callback_that_fails_keeps_no_other_from_being_called() -> None:
    called = [threading.Event(), threading.Event()]
    out = threading.Event()

    def behave(request: models_pb2.GetModelRequest, context: grpc.ServicerContext) -> models_pb2.Model:
        context.add_callback(lambda: 1 / 0)  # type: ignore[arg-type]  # as wrong as it looks
        context.add_callback(called[request.name == "second"].set)
        assert out.wait(20)
        return models_pb2.Model()

    with serve(handler(GET, behave), turbo=True) as channel:
        with wire(channel.address) as caller:
            caller.call(1, f"/{GET}", message(models_pb2.GetModelRequest(name="first").SerializeToString()))
            caller.call(3, f"/{GET}", message(models_pb2.GetModelRequest(name="second").SerializeToString()))
            until(lambda: in_flight(channel) == 2)
        assert all(one.wait(20) for one in called)
        out.set()


def in_flight(channel: Any) -> int:
    return len(channel.server._admission._inside)  # asked from without, it would be one call more


def test_large_answers_are_sent_as_a_whole_before_the_server_stops() -> None:
    inside, out = threading.Event(), threading.Event()
    size = 8 << 20

    def behave(_: Any, __: grpc.ServicerContext) -> models_pb2.Model:
        inside.set()
        assert out.wait(20)
        return models_pb2.Model(description="x" * size)

    with serve(handler(GET, behave), turbo=True) as channel:
        answers = [models_pb2_grpc.ModelsStub(channel).GetModel.future(REQUEST, timeout=60) for _ in range(3)]
        until(lambda: in_flight(channel) == len(answers))
        stopped = channel.server.stop(60)
        out.set()
        assert all(len(answer.result().description) == size for answer in answers)
        assert stopped.wait(20)


def test_requests_that_came_one_by_one_are_not_served_beyond_the_threads_there_are() -> None:
    """All of them had begun when none was complete."""
    out = threading.Event()

    def behave(request: bytes, _: grpc.ServicerContext) -> bytes:
        assert out.wait(20)
        return request

    with Front(grpc.unary_unary_rpc_method_handler(behave), threads=2) as address, wire(address) as caller:
        opened = literal(request_headers("/any"))
        for number in range(1, 11, 2):
            caller.send(frame(HEADERS, END_HEADERS, number, opened))
        for number in range(1, 11, 2):
            caller.send(frame(DATA, END_STREAM, number, BODY))
        refused = [caller.next(HEADERS) for _ in range(3)]
        assert [one.stream for one in refused if one.flags & END_STREAM] == [5, 7, 9]
        out.set()
        assert {caller.next(DATA).stream for _ in range(2)} == {1, 3}


def upload_when(reading: threading.Event) -> Callable[..., artifacts_pb2.Artifact]:
    """Return a handler that begins to read when it may, or ends with its caller."""

    def upload(
        requests: Iterator[artifacts_pb2.UploadRequest], context: grpc.ServicerContext
    ) -> artifacts_pb2.Artifact:
        context.add_callback(reading.set)
        assert reading.wait(20)
        return artifacts_pb2.Artifact(size_bytes=sum(1 for _ in requests))

    return upload


def greeted(caller: Wire) -> Wire:
    """Take note of the server's settings: its windows count from then on."""
    caller.next(SETTINGS)
    return caller.send(frame(SETTINGS, ACK))


def heard_until_now(caller: Wire) -> None:
    """Wait until the server has read what was sent."""
    caller.send(frame(PING, 0, 0, bytes(8)))
    while not caller.next(PING).flags & ACK:
        pass


def test_what_broken_calls_sent_does_not_count_against_their_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CONNECTION_WINDOW", 1 << 18)
    monkeypatch.setattr(calls, "STREAM_WINDOW", 1 << 14)
    too_large = b"\0\xff\xff\xff\xff" + bytes(16_000)
    unread = message(bytes((1 << 14) - 5))
    with (
        serve(handler(GET, leaves), handler(UPLOAD, upload_when(threading.Event())), turbo=True) as channel,
        wire(channel.address) as caller,
    ):
        greeted(caller)
        for number in range(1, 81, 4):
            caller.send(frame(HEADERS, END_HEADERS, number, OPEN_GET) + frame(DATA, 0, number, too_large))
            caller.send(frame(HEADERS, END_HEADERS, number + 2, OPEN_UPLOAD))
            caller.send(frame(DATA, 0, number + 2, unread))
            caller.send(frame(RST_STREAM, 0, number + 2, CANCEL.to_bytes(4, "big")))
            heard_until_now(caller)
        caller.call(101, f"/{GET}", BODY)
        assert caller.next(DATA).payload == BODY


def test_messages_without_bytes_fill_the_window_of_a_slow_handler_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "STREAM_WINDOW", 1 << 14)
    reading = threading.Event()
    many = bytes(5) * 3_000
    with (
        serve(handler(UPLOAD, upload_when(reading)), turbo=True) as channel,
        wire(channel.address) as caller,
    ):
        greeted(caller).send(frame(HEADERS, END_HEADERS, 1, OPEN_UPLOAD))
        for _ in range(60):  # more than half of the window, at which the server would say that there is room
            caller.send(frame(DATA, 0, 1, many))
        caller.send(frame(PING, 0, 0, bytes(8)))
        before = iter(lambda: caller.next(WINDOW_UPDATE, PING), None)
        told = [one.stream for one in takewhile(lambda one: one.kind != PING, before)]
        assert 1 not in told
        reading.set()
        assert caller.next(WINDOW_UPDATE).stream == 1
        caller.send(frame(DATA, END_STREAM, 1))
        answer = artifacts_pb2.Artifact.FromString(caller.next(DATA).payload[5:])
        assert answer.size_bytes == 60 * 3_000


def test_a_call_that_is_refused_and_broken_off_as_it_comes_harms_no_other_on_its_connection() -> None:
    unknown = literal(request_headers(f"/{GET}", (b"grpc-encoding", b"snappy")))
    with serve(handler(GET, leaves), turbo=True) as channel, wire(channel.address) as caller:
        caller.send(
            frame(HEADERS, END_HEADERS, 1, unknown)
            + frame(DATA, 0, 1, BODY)
            + frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))
        )
        caller.call(3, f"/{GET}", BODY)
        assert next(one for one in caller.frames() if one.kind == DATA and one.stream == 3).payload == BODY


class Front:
    """A turbo front end alone, with one handler."""

    def __init__(self, served: Any, threads: int = 4) -> None:
        self._front = TurboFrontEnd(lambda _: served, threads=threads, max_message_bytes=4 << 20)

    def __enter__(self) -> str:
        port = self._front.listen("127.0.0.1:0")
        self._front.start()
        return f"127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        assert self._front.stop(0).wait(20)
