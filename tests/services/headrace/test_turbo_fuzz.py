"""Conversations that went wrong in some thousand ways leave the turbo front end as it was."""

import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.testing import handler, serve, until
from tests.services.headrace.bare_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    literal,
    message,
    request_headers,
)

CASES = 5_000
SEED = 9113
BATCH = 250  # cases between two looks whether a good caller is served
REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
METHOD = "headrace.registry.v1.Models/GetModel"
BODY = message(REQUEST.SerializeToString())
BLOCK = literal(request_headers(f"/{METHOD}", (b"grpc-timeout", b"5S"), (b"mine-bin", b"AAEC")))
HEALTH = literal(request_headers("/grpc.health.v1.Health/Check"))

CONVERSATIONS: Sequence[Sequence[bytes]] = [
    [frame(SETTINGS), frame(HEADERS, END_HEADERS, 1, BLOCK), frame(DATA, END_STREAM, 1, BODY)],
    [
        frame(SETTINGS, payload=b"\0\4\0\0\0\5\0\5\0\0\x40\0"),
        frame(HEADERS, 0, 1, BLOCK[:40]),
        frame(CONTINUATION, END_HEADERS, 1, BLOCK[40:]),
        frame(PING, 0, 0, bytes(8)),
        frame(DATA, 0, 1, BODY[:7]),
        frame(DATA, END_STREAM, 1, BODY[7:]),
        frame(WINDOW_UPDATE, 0, 1, b"\0\0\1\0"),
    ],
    [
        frame(SETTINGS),
        *(
            part
            for number in (1, 3, 5)
            for part in (frame(HEADERS, END_HEADERS, number, BLOCK), frame(DATA, END_STREAM, number, BODY))
        ),
        frame(RST_STREAM, 0, 3, b"\0\0\0\x08"),
        frame(PRIORITY, 0, 5, b"\0\0\0\1\x10"),
        frame(GOAWAY, 0, 0, bytes(8)),
    ],
    [
        frame(SETTINGS),
        frame(HEADERS, END_HEADERS, 1, HEALTH),
        frame(DATA, END_STREAM, 1, message(b"")),
        frame(HEADERS, END_HEADERS, 3, HEALTH),
        frame(DATA, 0, 3, message(b"") * 2),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, literal([(b"trailer", b"x")])),
    ],
]


def _flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = chance.randbytes(chance.randint(1, 20))


def _delete(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randint(1, 20)]


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.randint(1, 60)] * chance.randint(1, 30)


BYTES: Sequence[Callable[[random.Random, bytearray], None]] = (_flip, _insert, _delete, _cut, _repeat)


def mutated(chance: random.Random) -> bytes:
    """Return a conversation with frames in another order, other headers of frames, or other bytes."""
    frames = [bytearray(part) for part in chance.choice(CONVERSATIONS)]
    for _ in range(chance.randint(1, 3)):
        one = chance.randrange(len(frames))
        match chance.randrange(6):
            case 0:
                frames.insert(chance.randrange(len(frames)), frames[one])
            case 1:
                chance.shuffle(frames)
            case 2:
                frames[one][3] = chance.randrange(12)  # kind
            case 3:
                frames[one][4] = chance.randrange(256)  # flags
            case 4:
                frames[one][8] = chance.randrange(8)  # stream
            case _:
                frames[one][2] = chance.randrange(256)  # length
    data = bytearray(PREFACE + b"".join(frames))
    for _ in range(chance.randint(0, 2)):
        if data:
            chance.choice(BYTES)(chance, data)
    return bytes(data)


def converse(address: str, data: bytes) -> None:
    """Say all that, hear everything, and hang up; a TimeoutError if the server does not."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as caller,
        suppress(ConnectionError, BrokenPipeError),
    ):
        caller.sendall(data)
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(1 << 16):
            pass


def test_no_conversation_harms_the_server(caplog: pytest.LogCaptureFixture) -> None:
    metrics = CollectorRegistry()
    register = handler(METHOD, lambda request, _: models_pb2.Model(name=request.name))
    with capture_logs() as logs, serve(register, turbo=True, metrics=metrics) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)
        for case in range(CASES):
            converse(channel.address, mutated(random.Random(SEED + case)))
            if case % BATCH == 0:
                assert stub.GetModel(REQUEST, timeout=20).name == REQUEST.name, f"after case {case}"
        assert stub.GetModel(REQUEST, timeout=20).name == REQUEST.name
        until(lambda: metrics.get_sample_value("headrace_rpc_in_flight", {"method": METHOD}) == 0)
    assert [one for one in logs if one["log_level"] in {"warning", "error"}] == []
    assert caplog.records == []
