"""Whatever a handler does, its caller cannot tell the turbo front end from grpcio: same messages, status, details and metadata."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import pytest
from grpc_status import rpc_status

from headrace import errors
from headrace.rpc.authorization import Role, Rule
from headrace.rpc.status import to_status
from headrace.testing import serve

SERVICE = "headrace.testing.Alike"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
REQUESTS = (b"one", b"", b"three" * 50_000)
Behave = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]

ERRORS = sorted(
    (
        found
        for found in vars(errors).values()
        if isinstance(found, type)
        and issubclass(found, errors.HeadraceError)
        and found is not errors.HeadraceError
    ),
    key=lambda one: one.__name__,
)


@dataclass
class Outcome:
    """What a caller sees."""

    messages: list[bytes] = field(default_factory=list)
    code: str = ""
    details: str = ""
    initial: list[tuple[str, str | bytes]] = field(default_factory=list)
    trailing: list[tuple[str, str | bytes]] = field(default_factory=list)


def echo(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


def nothing(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield from ()


def large(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    yield bytes(5 << 20)


def raises(error: Exception, after: int = 0) -> Behave:
    def behave(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for _sent in range(after):
            yield next(requests)
        raise error

    return behave


def does(action: Callable[[Any], object]) -> Behave:
    def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        action(context)
        yield from requests

    return behave


def ends(action: Callable[[Any], object]) -> Behave:
    """Act when everything has been answered."""

    def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests
        action(context)

    return behave


def metadata(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    pairs: Any = context.invocation_metadata()
    kept = sorted((key, value) for key, value in pairs if key.startswith("mine"))
    yield repr([tuple(pair) for pair in kept]).encode()


def in_time(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    left = context.time_remaining()
    yield b"in time" if 10 < left < 21 else repr(left).encode()


def who(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
    known = (re.sub("[0-9]+$", "", context.peer()), context.peer_identities(), context.peer_identity_key())
    yield repr((known, context.is_active(), context.code(), context.details())).encode()


def waits(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    over = threading.Event()
    if context.add_callback(over.set):
        assert over.wait(20)
    yield b"too late"


def sets(code: grpc.StatusCode, details: str) -> Callable[[grpc.ServicerContext], None]:
    def act(context: grpc.ServicerContext) -> None:
        context.set_code(code)
        context.set_details(details)

    return act


def aborts(code: grpc.StatusCode) -> Callable[[grpc.ServicerContext], NoReturn]:
    return lambda context: context.abort(code, "so")


def _status() -> grpc.Status:
    made = to_status(errors.QuotaExceeded("no more", metadata={"subject": "äöü"}, retry_after_s=1.5))
    status: grpc.Status = rpc_status.to_status(made)
    return status


BEHAVIORS: Mapping[str, Behave] = {
    "echo": echo,
    "nothing": nothing,
    "large": large,
    "metadata": metadata,
    "in_time": in_time,
    "who": who,
    "waits": waits,
    **{f"raises_{kind.__name__}": raises(kind(f"{kind.__name__} ä % \n", field="f")) for kind in ERRORS},
    "raises_unknown": raises(ValueError("a secret")),
    "raises_after_two": raises(errors.NotFound("gone"), after=2),
    "raises_unknown_after_two": raises(KeyError("a secret"), after=2),
    **{f"aborts_{code.name}": does(aborts(code)) for code in grpc.StatusCode},
    "aborts_with_text": does(
        lambda context: context.abort(grpc.StatusCode.ABORTED, "50 % of ä \t\r\n \u2603 %41")
    ),
    "aborts_without_text": does(lambda context: context.abort(grpc.StatusCode.ABORTED, "")),
    "aborts_with_status": does(lambda context: context.abort_with_status(_status())),
    "aborts_at_the_end": ends(lambda context: context.abort(grpc.StatusCode.DATA_LOSS, "late")),
    "sets_code": ends(sets(grpc.StatusCode.ALREADY_EXISTS, "is there")),
    "sets_ok": ends(sets(grpc.StatusCode.OK, "fine")),
    "sets_details": ends(lambda context: context.set_details("only details")),
    "sets_code_and_raises": does(lambda context: [context.set_code(grpc.StatusCode.ABORTED), 1 / 0]),
    "trailing": ends(
        lambda context: context.set_trailing_metadata((("mine", "a"), ("mine-bin", b"\0\xff"), ("mine", "b")))
    ),
    "initial": does(lambda context: context.send_initial_metadata((("mine", "a"), ("mine-bin", b"\0\xff")))),
    "initial_twice": does(lambda context: [context.send_initial_metadata(()) for _ in "12"]),
    "gzip_too_late": does(
        lambda context: [
            context.send_initial_metadata((("mine", "a"),)),
            context.set_compression(grpc.Compression.Gzip),
        ]
    ),
    "gzip": does(lambda context: context.set_compression(grpc.Compression.Gzip)),
    "deflate": does(lambda context: context.set_compression(grpc.Compression.Deflate)),
    "no_compression": does(lambda context: context.set_compression(grpc.Compression.NoCompression)),
    "next_plain": does(
        lambda context: [
            context.set_compression(grpc.Compression.Gzip),
            context.disable_next_message_compression(),
        ]
    ),
    "cancels": does(lambda context: context.cancel()),
    "wrong_type": does(lambda context: None),
}


def _handler(behave: Behave, kind: str, name: str) -> Any:
    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        requests = request if kind.startswith("stream") else iter([request])
        if name == "wrong_type":
            return "text"
        return next(behave(requests, context), None)

    def stream(request: Any, context: grpc.ServicerContext) -> Any:
        requests = request if kind.startswith("stream") else iter([request])
        yield from behave(requests, context) if name != "wrong_type" else ("text",)

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(stream if kind.endswith("stream") else unary, bytes, _serialized)


def _serialized(message: Any) -> bytes:
    if not isinstance(message, bytes):
        raise TypeError(f"{type(message)} is no message")
    return message


@pytest.fixture(scope="module")
def channels() -> Iterator[list[grpc.Channel]]:
    """One served by grpcio, one by turbo."""
    methods = {
        f"{kind}_{name}": _handler(behave, kind, name) for kind in KINDS for name, behave in BEHAVIORS.items()
    }
    rules = {f"/{SERVICE}/{name}": Rule(Role.VIEWER) for name in methods}

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])

    with (
        serve(register, rules=rules, turbo=False, max_message_bytes=4 << 20) as slow,
        serve(register, rules=rules, turbo=True, max_message_bytes=4 << 20) as quick,
        grpc.insecure_channel(slow.address) as plain,
        grpc.insecure_channel(quick.address) as plain_quick,
    ):
        yield [plain, plain_quick]


def outcome(channel: grpc.Channel, kind: str, method: str, **options: Any) -> Outcome:
    """Call as a plain client does."""
    seen = Outcome()
    options = {"timeout": 20, **options}
    rpc = getattr(channel, kind)(method)
    streaming = kind.startswith("stream")
    argument: Any = iter(REQUESTS) if streaming else REQUESTS[0]
    call = rpc(argument, **options) if kind.endswith("stream") else rpc.future(argument, **options)
    try:
        if kind.endswith("stream"):
            for message in call:
                seen.messages.append(message)
        else:
            seen.messages.append(call.result())
    except grpc.RpcError:
        pass
    seen.code, seen.details = call.code().name, _without_ids(call.details())
    seen.initial = _own(call.initial_metadata())
    seen.trailing = _own(call.trailing_metadata())
    return seen


def _own(pairs: Any) -> list[tuple[str, str | bytes]]:
    return sorted((key, _without_ids(value)) for key, value in pairs or ())


def _without_ids(value: Any) -> Any:
    if isinstance(value, bytes):
        return re.sub(rb"[0-9a-f]{32}", b"<id>", value)
    return re.sub("[0-9a-f]{32}", "<id>", value or "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in BEHAVIORS if name != "waits"])
def test_the_same_handler_answers_the_same(channels: list[grpc.Channel], kind: str, name: str) -> None:
    slow, quick = (outcome(one, kind, f"/{SERVICE}/{kind}_{name}") for one in channels)
    assert quick == slow


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_passes_alike(channels: list[grpc.Channel], kind: str) -> None:
    slow, quick = (outcome(one, kind, f"/{SERVICE}/{kind}_waits", timeout=0.2) for one in channels)
    assert slow.code == "DEADLINE_EXCEEDED"
    assert quick == slow


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["/headrace.testing.Alike/Unknown", "/unknown.Service/Unknown"])
def test_what_is_not_served_is_refused_alike(channels: list[grpc.Channel], kind: str, method: str) -> None:
    slow, quick = (outcome(one, kind, method) for one in channels)
    assert slow.code == "UNIMPLEMENTED"
    assert quick == slow


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read_alike(
    channels: list[grpc.Channel], kind: str, compression: grpc.Compression
) -> None:
    for name in ("echo", "gzip"):
        method = f"/{SERVICE}/{kind}_{name}"
        slow, quick = (outcome(one, kind, method, compression=compression) for one in channels)
        assert slow.code == "OK"
        assert quick == slow


def test_metadata_arrive_alike(channels: list[grpc.Channel]) -> None:
    sent = (("mine", "a"), ("mine-bin", b"\0\xff,"), ("mine", "b"), ("mine-empty", ""), ("mine-bin", b""))
    method = f"/{SERVICE}/unary_unary_metadata"
    slow, quick = (outcome(one, "unary_unary", method, metadata=sent) for one in channels)
    assert quick == slow
    assert slow.code == "OK"


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_hears_alike_that_its_caller_has_left(channels: list[grpc.Channel], kind: str) -> None:
    for one in channels:
        began = time.monotonic()
        rpc = getattr(one, kind)(f"/{SERVICE}/{kind}_waits")
        argument: Any = iter(REQUESTS) if kind.startswith("stream") else REQUESTS[0]
        call = rpc(argument, timeout=60) if kind.endswith("stream") else rpc.future(argument, timeout=60)
        call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED
        assert time.monotonic() - began < 20
