"""Who would wait in vain is refused at once, with a hint when to come back; nobody is refused for a guess."""

from typing import Any

import pytest

from headrace.errors import DeadlineExceeded, ResourceExhausted
from headrace_inference.core.batching import OnTimeout, QueuePolicy
from headrace_inference.core.run_times import FRESH_S, RunTimes
from tests.unit.inference.served_queue import ServedQueue, busy, request


def learned(run_s: float, *, rows: int = 1, now: float = 0.0, **batching: Any) -> ServedQueue:
    """A queue whose workers are idle and that has seen batches of so many rows take so long."""
    served = ServedQueue(**batching)
    for _ in range(5):
        served.offer(request(rows), now=now)
        served.finish(now=now, infer_s=run_s)
    return served


def test_one_request_too_many_is_refused_and_told_when_to_come_back() -> None:
    served = busy(request(), request(), max_waiting=2)
    with pytest.raises(ResourceExhausted, match="2 requests wait for the model already") as raised:
        served.offer(request())
    assert raised.value.retry_after_s == 0.1


def test_a_level_may_have_a_bound_of_its_own() -> None:
    served = busy(request(priority=2), levels=2, policies={2: QueuePolicy(max_waiting=1)})
    with pytest.raises(ResourceExhausted, match="1 requests wait on priority level 2"):
        served.offer(request(priority=2))
    served.offer(request(priority=1))
    assert served.queue.waiting == 2


def test_a_full_queue_takes_a_request_in_for_one_of_lower_priority() -> None:
    low = [request(priority=3), request(priority=3)]
    served = busy(*low, request(priority=2), levels=3, max_waiting=3)
    served.offer(request(priority=1))
    assert list(served.dropped) == low[1:]


def test_a_deadline_that_no_run_can_meet_is_refused_at_once() -> None:
    served = learned(2.0, now=10)
    with pytest.raises(DeadlineExceeded, match=r"the deadline is in 1\.5 s, and the model needs 2 s"):
        served.offer(request(deadline=11.5), now=10)
    assert served.offer(request(deadline=12.5), now=10) == [True]


def test_what_was_slow_once_is_tried_again() -> None:
    served = learned(2.0, now=10)
    assert served.offer(request(deadline=10 + 100), now=10) == [True]
    served.finish(now=12, infer_s=2.0)
    later = 12 + FRESH_S + 10 * 2.0 + 1
    assert served.offer(request(deadline=later + 1), now=later) == [True]


def test_what_cannot_be_met_any_more_is_dropped_before_it_runs() -> None:
    served = learned(2.0, now=10)
    hopeless, fine = request(deadline=13), request(deadline=15)
    served.offer(request(), hopeless, fine, now=10)
    assert served.finish(now=12, infer_s=2.0) == [fine]
    assert isinstance(served.dropped[hopeless], DeadlineExceeded)


def test_who_would_wait_past_his_deadline_is_refused_while_others_have_time() -> None:
    served = learned(1.0, rows=4, max_size=4)
    served.offer(*(request() for _ in range(1 + 12)))
    with pytest.raises(ResourceExhausted, match="waits about") as raised:
        served.offer(request(deadline=3))
    assert raised.value.retry_after_s is not None
    assert 0.5 < raised.value.retry_after_s <= 5
    assert served.offer(request(deadline=10)) == [False]


def test_nobody_is_refused_for_an_expectation_while_nobody_waits() -> None:
    served = learned(1.0, rows=4, max_size=4)
    served.offer(request())
    assert served.offer(request(deadline=1.5)) == [False]


def test_a_queue_is_no_longer_than_is_expected_to_be_served_in_time() -> None:
    served = learned(1.0, rows=4, max_size=4, max_wait_s=3)
    with pytest.raises(ResourceExhausted, match=r"this one has 3 s"):
        served.offer(*(request() for _ in range(100)))
    assert 4 <= served.queue.waiting <= 12


def test_the_wait_of_a_caller_with_few_in_the_queue_is_shorter() -> None:
    served = learned(1.0, rows=4, max_size=4)
    served.offer(*(request(caller="crowd") for _ in range(1 + 40)))
    with pytest.raises(ResourceExhausted, match="waits about"):
        served.offer(request(caller="crowd", deadline=6))
    assert served.offer(request(caller="single", deadline=6)) == [False]


def test_higher_priority_does_not_wait_for_lower() -> None:
    served = learned(1.0, rows=4, max_size=4, levels=2)
    served.offer(*(request(priority=2) for _ in range(1 + 40)))
    with pytest.raises(ResourceExhausted, match="waits about"):
        served.offer(request(priority=2, deadline=6))
    assert served.offer(request(priority=1, deadline=6)) == [False]


def test_run_times_are_told_apart_by_what_is_fixed_and_what_is_for_each_row() -> None:
    times = RunTimes()
    for rows in (1, 4, 16, 2, 8, 32) * 3:
        times.learn(rows, 0.010 + 0.002 * rows, now=0)
    assert times.fixed_s == pytest.approx(0.010)
    assert times.each_s == pytest.approx(0.002)
    assert times.worth_sharing() == pytest.approx(5)


def test_run_times_follow_a_model_that_grows_slow() -> None:
    times = RunTimes()
    for _ in range(50):
        times.learn(1, 0.001, now=0)
    for _ in range(50):
        times.learn(1, 0.010, now=0)
    assert times.expected(1) == pytest.approx(0.010, rel=0.05)


def test_a_model_whose_time_varies_is_given_the_benefit_of_the_doubt() -> None:
    times = RunTimes()
    for number in range(100):
        times.learn(1, 0.001 + 0.001 * (number % 2), now=0)
    assert times.expected(1) == pytest.approx(0.0015, rel=0.1)
    assert times.least(1, now=0) < 0.001


def test_a_caller_with_much_in_the_queue_is_not_taken_to_wait_for_ever_because_others_have_little() -> None:
    served = learned(1.0, rows=4, max_size=4)
    served.offer(
        *(request(caller="bulk") for _ in range(1 + 12)), *(request(caller=name) for name in range(7))
    )
    assert served.offer(request(caller="bulk", deadline=15)) == [False]


def test_who_would_wait_past_his_timeout_is_refused_unless_that_only_puts_him_behind_others() -> None:
    served = learned(1.0, rows=4, max_size=4)
    served.offer(*(request() for _ in range(1 + 12)))
    with pytest.raises(ResourceExhausted, match=r"this one has 2 s"):
        served.offer(request(timeout_s=2))
    patient = learned(1.0, rows=4, max_size=4, policy=QueuePolicy(on_timeout=OnTimeout.DELAY))
    patient.offer(*(request() for _ in range(1 + 12)))
    assert patient.offer(request(timeout_s=2)) == [False]
