"""Callers who ask for too much are sent away by the turbo front end, and others go on being served."""

import resource
import threading
from collections.abc import Iterator

import grpc
import pytest

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.layers import Handler
from headrace.rpc.turbo import front_end
from headrace.rpc.turbo.front_end import TurboFrontEnd
from headrace.rpc.turbo.limits import MOST_HEADER_BYTES, MOST_STREAMS
from headrace.testing import handler, serve, until
from headrace.testing.server import ServedChannel
from tests.services.headrace.bare_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    Wire,
    frame,
    literal,
    message,
    request_headers,
    wire,
)

REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
METHOD = "headrace.registry.v1.Models/GetModel"
PATH = f"/{METHOD}"
BODY = message(REQUEST.SerializeToString())
OPEN = literal(request_headers(PATH))


@pytest.fixture(scope="module")
def channel() -> Iterator[ServedChannel]:
    """A server whose seconds do not end, so that what is counted in a second is counted however slow the machine is."""
    register = handler(METHOD, lambda request, _: models_pb2.Model(name=request.name))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(front_end, "TICK_S", 3600.0)
        with serve(register, turbo=True) as channel:
            yield channel


@pytest.fixture(autouse=True)
def served(channel: ServedChannel) -> Iterator[None]:
    """Whatever a test does to the server, a caller on another connection is answered."""
    yield
    answer_is_there(channel)


def answer_is_there(channel: grpc.Channel) -> None:
    assert models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=20).name == REQUEST.name


def test_calls_that_are_begun_only_to_be_broken_off_are_bounded(channel: ServedChannel) -> None:
    """Rapid reset, CVE-2023-44487."""
    with wire(channel.address) as attacker:
        for first in range(1, 160_000, 2_000):
            attacker.send(
                b"".join(
                    frame(HEADERS, END_HEADERS | END_STREAM, number, OPEN)
                    + frame(RST_STREAM, 0, number, bytes(4))
                    for number in range(first, first + 2_000, 2)
                )
            )
            answer_is_there(channel)
        assert attacker.is_closed()


def test_headers_without_end_are_bounded(channel: ServedChannel) -> None:
    """CONTINUATION flood, CVE-2024-27316."""
    with wire(channel.address) as attacker:
        attacker.send(frame(HEADERS, 0, 1, OPEN) + frame(CONTINUATION, 0, 1, literal([(b"a", b"b")])) * 100)
        assert attacker.next(GOAWAY).code == ENHANCE_YOUR_CALM
        assert attacker.is_closed()


@pytest.mark.parametrize(
    "flood",
    [frame(SETTINGS), frame(PING, 0, 0, bytes(8))],
    ids=["settings, CVE-2019-9515", "pings, CVE-2019-9512"],
)
def test_frames_that_must_be_answered_are_bounded(channel: ServedChannel, flood: bytes) -> None:
    with wire(channel.address) as attacker:
        for _ in range(30):
            attacker.send(flood * 100)
        assert attacker.is_closed()


def test_pings_whose_answers_are_read_are_bounded_too(channel: ServedChannel) -> None:
    """The library counts only those that are not answered yet."""
    with wire(channel.address) as attacker:
        for _ in range(11):
            attacker.send(frame(PING, 0, 0, bytes(8)) * 100)
            if any(one.kind == GOAWAY for one in _first(attacker, 100)):
                break
        else:
            pytest.fail("1,100 pings were answered")


def _first(attacker: Wire, count: int) -> list[Frame]:
    return [one for _, one in zip(range(count), attacker.frames(), strict=False)]


def test_settings_that_set_too_much_are_refused(channel: ServedChannel) -> None:
    """CVE-2020-11080."""
    with wire(channel.address) as attacker:
        attacker.send(frame(SETTINGS, payload=(b"\0\x04" + (1 << 20).to_bytes(4, "big")) * 1_000))
        assert attacker.is_closed()


def test_data_without_data_are_bounded(channel: ServedChannel) -> None:
    """CVE-2019-9518."""
    with wire(channel.address) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, OPEN))
        for _ in range(30):
            attacker.send(frame(DATA, 0, 1) * 100)
        assert attacker.next(GOAWAY).code == ENHANCE_YOUR_CALM
        assert attacker.is_closed()


@pytest.mark.parametrize(
    "nonsense",
    [
        frame(WINDOW_UPDATE, 0, 1, bytes(4)),
        frame(DATA, 0, 1, b"after the end"),
        frame(HEADERS, END_HEADERS, 1, OPEN),
        frame(PRIORITY, 0, 1, b"\0\0\0\x01\0"),
    ],
    ids=["no window", "data after the end", "headers after the end", "depends on itself"],
)
def test_calls_that_make_the_server_break_them_off_are_bounded(
    channel: ServedChannel, nonsense: bytes
) -> None:
    """MadeYouReset, CVE-2025-8671."""
    with wire(channel.address) as attacker:
        for number in range(1, 20_000, 2):
            made = nonsense[:5] + number.to_bytes(4, "big") + nonsense[9:]
            attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, number, OPEN) + made)
        attacker.send(
            frame(RST_STREAM, 0, 1, bytes(3))
        )  # whoever took all that without complaint hangs up now
        assert attacker.is_closed()


def test_headers_that_are_too_large_are_refused_and_the_connection_goes_on(channel: ServedChannel) -> None:
    much = literal([(b"large", b"x" * (MOST_HEADER_BYTES // 2))])
    large = frame(HEADERS, 0, 1, OPEN + much) + frame(CONTINUATION, END_HEADERS, 1, much)
    with wire(channel.address) as attacker:
        attacker.send(large)
        assert attacker.next(HEADERS).flags & END_STREAM
        attacker.call(3, PATH, BODY)
        assert attacker.next(DATA).payload == BODY


def test_headers_that_grow_when_they_are_unpacked_are_bounded(channel: ServedChannel) -> None:
    """HPACK bomb: one entry of the table, named again and again."""
    entry = b"\x40" + literal([(b"bomb", b"x" * 4_000)])[1:]
    with wire(channel.address) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, OPEN + entry + b"\xbe" * 10_000))
        assert attacker.next(GOAWAY).code == ENHANCE_YOUR_CALM
        assert attacker.is_closed()


def test_more_calls_than_may_be_on_a_connection_are_refused(channel: ServedChannel) -> None:
    with wire(channel.address) as attacker:
        attacker.send(b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, OPEN) for n in range(MOST_STREAMS + 1)))
        refused = attacker.next(RST_STREAM)
        assert refused.code == REFUSED_STREAM
        assert refused.stream == 2 * MOST_STREAMS + 1


def test_a_message_that_says_it_is_too_large_is_refused_before_it_has_come(channel: ServedChannel) -> None:
    with wire(channel.address) as attacker:
        attacker.send(frame(HEADERS, END_HEADERS, 1, OPEN) + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        assert attacker.next(HEADERS).flags & END_STREAM
        assert attacker.next(RST_STREAM).stream == 1


def test_requests_that_never_end_are_bounded_in_all() -> None:
    served = Front(most_held_bytes=1 << 20)
    part = b"\0" + (1 << 20).to_bytes(4, "big") + bytes(16_000)
    with served as address, wire(address) as attacker, wire(address) as good:
        attacker.send(frame(WINDOW_UPDATE, payload=(1 << 24).to_bytes(4, "big")))
        for number in range(1, 201, 2):
            attacker.send(
                frame(HEADERS, END_HEADERS, number, literal(request_headers("/echo")))
                + frame(DATA, 0, number, part)
            )
        assert attacker.next(HEADERS).flags & END_STREAM
        until(lambda: served.front.held_bytes <= 1 << 20)
        good.call(1, "/echo", message(b"hi"))
        assert good.next(DATA).payload == message(b"hi")
        attacker.close()
        until(lambda: served.front.held_bytes == 0)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "MOST_CONNECTIONS", 2)
    with Front() as address, wire(address) as first, wire(address) as second:
        for one in (first, second):
            one.call(1, "/echo", message(b"hi"))
            assert one.next(DATA).payload == message(b"hi")
        with wire(address) as third:
            assert third.is_closed()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n" * 2, b"\x16\x03\x01" + bytes(60)], ids=["http/1", "tls"]
)
def test_who_does_not_speak_http2_is_sent_away(channel: ServedChannel, garbage: bytes) -> None:
    stranger = Wire(channel.address).send(garbage)
    assert stranger.is_closed()
    stranger.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of a thousand connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_idle_connections_cost_others_nothing(channel: ServedChannel) -> None:
    idle = [Wire(channel.address).greet() for _ in range(1_000)]
    for one in idle:
        assert one.next(SETTINGS)
    answer_is_there(channel)
    for one in idle[::100]:
        one.call(1, PATH, BODY)
        assert one.next(DATA).payload == BODY
    for one in idle:
        one.close()


def test_a_caller_who_says_half_a_preface_keeps_nobody_waiting(channel: ServedChannel) -> None:
    slow = [Wire(channel.address).send(PREFACE[:10]) for _ in range(20)]
    answer_is_there(channel)
    for one in slow:
        one.close()


class Front:
    """A turbo front end alone, with an echo."""

    def __init__(self, most_held_bytes: int = 0) -> None:
        echo: Handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        self.front = TurboFrontEnd(
            lambda method: echo if method == "/echo" else None,
            threads=4,
            max_message_bytes=4 << 20,
            most_held_bytes=most_held_bytes,
        )

    def __enter__(self) -> str:
        port = self.front.listen("127.0.0.1:0")
        self.front.start()
        return f"127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        stopped: threading.Event = self.front.stop(0)
        assert stopped.wait(20)
