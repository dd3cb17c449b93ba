"""Callers share a queue row by row: who sends more waits longer, and nobody else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ResourceExhausted
from tests.unit.inference.served_queue import busy, request


def test_a_caller_with_one_request_goes_before_one_with_five_hundred() -> None:
    crowd = [request(caller="crowd") for _ in range(500)]
    served = busy(*crowd, max_size=8, max_waiting=1000)
    served.finish()
    single = request(caller="single")
    served.offer(single)
    assert single in served.finish()


def test_two_callers_share_the_rows_not_the_requests() -> None:
    small = [request(1, caller="small") for _ in range(16)]
    large = [request(4, caller="large") for _ in range(4)]
    served = busy(*large, *small, max_size=8)
    batch = served.finish()
    assert sum(one.rows for one in batch if one.terms.caller == "small") == 4


def test_a_caller_is_not_charged_for_what_he_took_back() -> None:
    gone = [request(caller="a") for _ in range(3)]
    served = busy(*gone, max_size=1)
    for one in reversed(gone):
        served.queue.withdraw(one)
    others, back = [request(caller="b"), request(caller="b")], request(caller="a")
    served.offer(*others, back)
    assert served.serve() == [[others[0]], [back], [others[1]]]


def test_a_full_queue_takes_a_caller_with_few_in_for_the_newest_of_the_one_with_most() -> None:
    crowd = [request(caller="crowd") for _ in range(4)]
    served = busy(*crowd, max_waiting=4)
    served.offer(request(caller="single"))
    assert list(served.dropped) == crowd[3:]
    assert isinstance(served.dropped[crowd[3]], ResourceExhausted)
    with pytest.raises(ResourceExhausted):
        served.offer(request(caller="crowd"))
    assert served.queue.waiting == 4


def test_callers_who_come_and_go_leave_nothing_behind() -> None:
    served = busy(request(caller="stays"))
    for number in range(2000):
        passing = request(caller=number, width=3 + number, deadline=5)
        served.offer(passing)
        served.queue.withdraw(passing)
    (level,) = served.queue._waiting.levels
    assert len(level._callers) < 200
    assert len(level._heads) < 200
    assert len(level._lines) == 1
    assert len(served.queue._waiting._expiring._entries) < 200


@given(
    backlogs=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    max_size=st.integers(1, 9),
    rows=st.lists(st.integers(1, 4), min_size=5, max_size=5),
)
def test_while_two_callers_wait_neither_gets_more_than_a_request_ahead(
    backlogs: list[int], max_size: int, rows: list[int]
) -> None:
    """The bound of start-time fair queueing: served rows differ by at most the largest request of each."""
    waiting = [
        request(rows[caller], caller=caller) for caller, count in enumerate(backlogs) for _ in range(count)
    ]
    served = busy(*waiting, max_size=max(max_size, 4), max_waiting=1000)
    left = dict(enumerate(backlogs))
    given_rows = dict.fromkeys(left, 0)
    for one in (one for batch in served.serve() for one in batch):
        caller = one.terms.caller
        assert isinstance(caller, int)
        if min(left.values()) > 0:
            given_rows[caller] += one.rows
            assert max(given_rows.values()) - min(given_rows.values()) <= 2 * max(rows)
        left[caller] -= 1
