"""When the turbo front end takes a caller for vanished."""

import asyncio
from typing import Any

import pytest

from headrace.rpc.turbo.connection import HANDSHAKE_S, IDLE_PING_S, PING_ANSWER_S, Connection
from headrace.rpc.turbo.limits import HeldBytes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PING = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)


class Loop:
    """A loop in which time passes when the test says so; what is put off is not done."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_soon(self, *_: object) -> None:
        """Do nothing."""

    def call_later(self, *_: object) -> None:
        """Do nothing."""


class Transport(asyncio.Transport):
    """Remembers whether it was closed."""

    closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1)}.get(name, default)

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: object) -> None:
        """Drop it."""

    def abort(self) -> None:
        self.closed = True


class Connections:
    """A `Dispatch` that nobody calls."""

    def opened(self, connection: Connection) -> None:
        """Do nothing."""

    def lost(self, connection: Connection) -> None:
        """Do nothing."""


class Caller:
    """A connection, and the time."""

    def __init__(self) -> None:
        self._loop, self._transport = Loop(), Transport()
        loop, dispatch = self._loop, Connections()
        self._connection = Connection(dispatch, loop, 1 << 20, HeldBytes(1 << 20))  # type: ignore[arg-type]  # as much of both as it needs
        self._connection.connection_made(self._transport)

    def at(self, now: float, sends: bytes = b"") -> bool:
        """Send at a time, and return whether the server still holds the connection then."""
        self._loop.now = now
        if sends:
            self._connection.data_received(sends)
        self._connection.tick(now)
        return not self._transport.closed


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_who_says_nothing_is_asked_and_sent_away_when_there_is_no_answer(caller: Caller) -> None:
    assert caller.at(0, PREFACE + SETTINGS)
    asked = IDLE_PING_S + 1
    assert caller.at(asked)
    assert caller.at(asked + PING_ANSWER_S)
    assert not caller.at(asked + PING_ANSWER_S + 1)


def test_who_is_asked_and_says_anything_is_there(caller: Caller) -> None:
    """The answer may have to wait behind much else on a slow line."""
    assert caller.at(0, PREFACE + SETTINGS)
    asked = IDLE_PING_S + 1
    assert caller.at(asked)
    assert caller.at(asked + PING_ANSWER_S, PING)
    assert caller.at(asked + PING_ANSWER_S * 2)
    assert not caller.at(asked + PING_ANSWER_S * 2 + 1)


def test_who_greets_letter_by_letter_has_no_longer_than_others(caller: Caller) -> None:
    assert caller.at(HANDSHAKE_S / 2, PREFACE[:1])
    assert caller.at(HANDSHAKE_S, PREFACE[1:2])
    assert not caller.at(HANDSHAKE_S + 1, PREFACE[2:3])
