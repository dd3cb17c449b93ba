"""The way to a shard: when it leads to another process, and when nobody is left to ask."""

import time
from collections.abc import Callable, Sequence
from typing import cast

import grpc
import pytest

from headrace.errors import HeadraceError, NotFound, NotPrimary, QuotaExceeded, Unavailable
from headrace.parameters.operation import Operation
from headrace.parameters.route import Route
from headrace.parameters.shard import ShardClient

Find = Callable[[], Sequence[str]]


class Shard:
    """A client that notes to whom it talks."""

    term = 0

    def __init__(self) -> None:
        self.turns = 0

    def turn_to(self, channel: grpc.Channel) -> None:
        self.turns += 1


def route(replica: str = "127.0.0.1:2", find: Find | None = None) -> tuple[Route[ShardClient], Shard]:
    shard = Shard()
    channel = grpc.insecure_channel("127.0.0.1:1")
    return Route(cast("ShardClient", shard), channel, "127.0.0.1:1", replica, find), shard


def test_a_replica_that_is_named_is_tried_when_the_primary_does_not_answer() -> None:
    way, shard = route()
    assert way.turn(Unavailable("gone"))
    assert shard.turns == 1
    way.close()


def test_without_a_replica_there_is_nowhere_to_turn_but_where_the_answer_says() -> None:
    way, shard = route(replica="")
    assert not way.turn(Unavailable("gone"))
    assert way.turn(NotPrimary("deposed", metadata={"primary": "127.0.0.1:3"}))
    assert shard.turns == 1
    way.close()


def test_a_process_that_came_back_with_nothing_leads_to_the_replica_until_that_has_nothing_either() -> None:
    way, _ = route()
    gone = NotFound("it is not held by this process")
    assert way.turn(gone)
    assert way.turn(NotPrimary("it is not promoted yet"))
    assert way.turn(gone), "the primary again, which still has nothing"
    assert not way.turn(gone), "both have said so"
    way.learn(Operation(1))  # some call has worked
    assert way.turn(gone)
    way.close()


def test_an_answer_that_another_process_would_give_too_turns_nowhere() -> None:
    way, shard = route()
    why: HeadraceError = QuotaExceeded("too much")
    assert not way.turn(why)
    assert shard.turns == 0
    way.close()


def test_when_all_that_are_known_are_gone_it_is_asked_where_the_shard_is_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headrace.parameters.route._LOOK_EVERY_S", time.monotonic() + 3600)  # since the start
    asked = []

    def find() -> Sequence[str]:
        asked.append(1)
        return ["127.0.0.1:3", "127.0.0.1:1"]

    way, shard = route(find=find)
    gone = NotFound("it is not held by this process")
    assert way.turn(gone)
    assert not asked, "the replica has not been tried"
    assert way.turn(gone), "another process has it now"
    assert shard.turns == 2
    for _ in range(4):
        assert way.turn(gone), "it may just be moving"
    assert len(asked) == 1
    way.close()


def test_a_shard_that_is_nowhere_is_given_up() -> None:
    way, _ = route(find=lambda: ["127.0.0.1:1", "127.0.0.1:2"])
    gone = NotFound("it is not held by this process")
    assert way.turn(gone)
    assert not way.turn(gone)
    way.close()


def test_a_shard_without_a_replica_is_looked_for_when_its_process_is_gone() -> None:
    for why in (Unavailable("gone"), NotFound("it is not held"), NotPrimary("deposed")):
        way, shard = route(replica="", find=lambda: ["127.0.0.1:3"])
        assert way.turn(why)
        assert shard.turns == 1
        way.close()


def test_while_nobody_says_where_the_shard_is_those_that_are_known_are_tried_again() -> None:
    way, shard = route(find=lambda: ())
    for _ in range(4):
        assert way.turn(Unavailable("gone"))
    assert shard.turns == 4
    way.close()
