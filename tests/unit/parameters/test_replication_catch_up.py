"""How a new replica catches up with a primary that acknowledges alone meanwhile, and when that ends."""

from typing import cast

import pytest

from headrace.errors import FailedPrecondition, ReplicaUnreachable, StaleTerm, StorageFull, Unavailable
from headrace_parameters.core.outbox import Item
from headrace_parameters.core.state import ShardState
from headrace_parameters.core.tenure import Assignment, Role, Tenure
from headrace_parameters.replication import replicated
from headrace_parameters.replication.replicated import Replicated

STATE = cast("ShardState", object())  # nobody looks into it
EMPTY = memoryview(b"")


def catching_up() -> Replicated:
    """Return a primary of term 2 that has two records and a replica with none, to which it has given a base."""
    primary = Replicated("store", Tenure.first(Assignment(1, Role.PRIMARY)))
    for _ in range(2):
        primary.add(b"", EMPTY)
    primary.assign(Assignment(2, Role.PRIMARY, "replica:1"))
    primary.connected(2, None)
    assert primary.base_wanted
    primary.begin(STATE)
    return primary


def sent_after(primary: Replicated, sent: Item | None) -> Item:
    item = primary.next_item(sent, None)
    assert item
    return item


def test_a_primary_acknowledges_alone_while_its_new_replica_catches_up() -> None:
    primary = catching_up()
    primary.add(b"", EMPTY)
    assert primary.may_tell(primary.position)


def test_a_replica_is_told_that_it_is_synced_after_all_that_was_acknowledged_without_it() -> None:
    primary = catching_up()
    base = sent_after(primary, None)
    primary.add(b"", EMPTY)  # record 3, acknowledged alone
    primary.confirmed(2, base.number, (), synced=False)
    assert not primary.marker_is_due(base, None)

    third = sent_after(primary, base)

    assert third.number == 3
    assert primary.marker_is_due(third, None)


def test_a_primary_waits_for_its_replica_from_before_that_one_is_told() -> None:
    primary = catching_up()
    base = sent_after(primary, None)
    primary.confirmed(2, base.number, (), synced=False)
    primary.add(b"", EMPTY)
    assert not primary.may_tell(primary.position)
    assert not primary.tenure.synced

    primary.confirmed(2, 3, (), synced=True)

    assert primary.may_tell(primary.position)
    assert primary.tenure.synced


def test_what_a_replica_holds_is_acknowledged_only_when_it_may_be_promoted() -> None:
    """It would be lost with the primary: a replica that does not know that it has everything takes nobody's place."""
    primary = Replicated("store", Tenure.first(Assignment(1, Role.PRIMARY, "replica:1")))
    primary.connected(1, None)
    primary.become(STATE)

    primary.confirmed(1, primary.position, (), synced=False)

    assert not primary.may_tell(primary.position)
    primary.confirmed(1, primary.position, (), synced=True)
    assert primary.may_tell(primary.position)


def test_records_of_a_primary_whose_new_replica_is_away_are_not_kept() -> None:
    primary = catching_up()
    primary.disconnected(2, Unavailable("cut off"))
    for _ in range(100):
        primary.add(b"", memoryview(bytes(1000)))
    assert primary.lag_records == 0
    assert primary.may_tell(primary.position)
    primary.connected(2, 2)
    assert primary.base_wanted, "it begins anew"


def test_a_replica_goes_on_where_a_broken_connection_left_it() -> None:
    primary = catching_up()
    base = sent_after(primary, None)
    primary.confirmed(2, base.number, (), synced=False)
    for _ in range(3):
        primary.add(b"", EMPTY)
    primary.disconnected(2, Unavailable("cut off"))
    primary.connected(2, 4)
    assert not primary.base_wanted
    item = primary.next_item(None, 4)
    assert item
    assert item.number == 5


def test_payloads_that_a_replica_reads_in_place_are_kept_until_it_does_not() -> None:
    primary = catching_up()
    payload = bytearray(b"gradient")
    primary.add(b"", memoryview(payload))
    primary.confirmed(2, 3, (3,), synced=False)
    with pytest.raises(BufferError):
        payload.clear()
    primary.confirmed(2, 3, (), synced=False)
    payload.clear()


def test_a_replica_takes_no_record_before_the_one_that_comes_next() -> None:
    replica = Replicated("store", Tenure.first(Assignment(3, Role.REPLICA)))
    with pytest.raises(FailedPrecondition, match="holds records up to None here, 1 came"):
        replica.follows(3, 1, base=False)
    assert replica.follows(3, 4, base=True)
    replica.hold(4)
    assert not replica.follows(3, 4, base=False)
    assert replica.follows(3, 5, base=False)
    with pytest.raises(FailedPrecondition, match="up to 4 here, 6 came"):
        replica.follows(3, 6, base=False)
    with pytest.raises(StaleTerm):
        replica.follows(2, 5, base=False)


def test_a_base_that_comes_late_does_not_take_a_replica_back() -> None:
    """By a connection that was given up, while the next one has brought more, which was acknowledged."""
    replica = Replicated("store", Tenure.first(Assignment(3, Role.REPLICA)))
    assert replica.follows(3, 4, base=True)
    replica.hold(4)
    assert not replica.follows(3, 3, base=True)


def test_who_waits_too_long_for_a_replica_learns_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicated, "CONFIRM_S", 0.01)
    primary = Replicated("store", Tenure.first(Assignment(1, Role.PRIMARY, "replica:1")))
    primary.disconnected(1, Unavailable("no route"))
    primary.add(b"", EMPTY)
    with pytest.raises(ReplicaUnreachable, match=r"replica:1 has not confirmed .*: no route") as refused:
        primary.wait(primary.position)
    assert refused.value.metadata == {"term": "1", "replica": "replica:1"}


class Clock:
    """The time, as a test wants it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def served_by_two(clock: Clock) -> Replicated:
    """Return a primary whose replica has everything."""
    primary = Replicated("store", Tenure.first(Assignment(1, Role.PRIMARY, "replica:1")), clock)
    primary.connected(1, None)
    primary.become(STATE)
    for _ in range(2):
        primary.confirmed(1, primary.position, (), synced=True)
    assert primary.tenure.synced
    return primary


def test_a_replica_is_silent_from_the_first_record_on_that_it_does_not_confirm() -> None:
    primary = served_by_two(clock := Clock())
    clock.now += 60
    assert primary.silence_s == 0, "nothing waits for it"
    primary.add(b"", EMPTY)
    clock.now += 3
    primary.add(b"", EMPTY)
    clock.now += 4
    assert primary.silence_s == 7
    primary.confirmed(1, primary.position - 1, (), synced=True)
    assert primary.silence_s == 0, "it is slow, but not silent"
    clock.now += 1
    assert primary.silence_s == 1
    primary.confirmed(1, primary.position, (), synced=True)
    clock.now += 60
    assert primary.silence_s == 0


def test_a_replica_that_cannot_be_reached_is_silent_though_nothing_waits_for_it() -> None:
    primary = served_by_two(clock := Clock())
    primary.disconnected(1, Unavailable("no route"))
    clock.now += 5
    assert (primary.silence_s, primary.why) == (5, "no route")
    primary.connected(1, primary.position)
    assert primary.silence_s == 0


def test_a_replica_that_answers_and_takes_no_record_stays_silent() -> None:
    """Its disk is full: each connection ends with the first record."""
    primary = served_by_two(clock := Clock())
    primary.add(b"", EMPTY)
    for _ in range(10):
        primary.connected(1, primary.position - 1)
        primary.confirmed(1, primary.position - 1, (), synced=True)
        clock.now += 1
        primary.disconnected(1, StorageFull("no room"))
    assert primary.silence_s == 10


def test_a_replica_that_receives_the_whole_store_is_not_silent_however_long_that_takes() -> None:
    clock = Clock()
    primary = Replicated("store", Tenure.first(Assignment(1, Role.PRIMARY, "replica:1")), clock)
    primary.connected(1, None)
    primary.become(STATE)
    clock.now += 600
    assert primary.silence_s == 0
    primary.disconnected(1, Unavailable("no route"))
    assert primary.silence_s == 600


def test_a_recovered_primary_or_synced_replica_may_serve_again_and_another_may_not() -> None:
    order = Assignment(5, Role.PRIMARY)
    for tenure in (
        Tenure(4, Role.PRIMARY),
        Tenure(4, Role.REPLICA, synced=True),
        Tenure(4, Role.STANDBY, synced=True),
    ):
        restarted = tenure.restarted()
        assert restarted.role is Role.STANDBY
        assert restarted.assigned(order, "store").role is Role.PRIMARY
        with pytest.raises(FailedPrecondition, match="taken here"):
            restarted.assigned(Assignment(4, Role.PRIMARY), "store")
    for tenure in (Tenure(4, Role.REPLICA), Tenure(4, Role.PRIMARY).deposed(4)):
        with pytest.raises(FailedPrecondition, match="has not caught up"):
            tenure.restarted().assigned(order, "store")
