"""What waits while a worker is busy becomes its next batch; nobody waits beside an idle worker."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DeadlineExceeded, InvalidArgument
from headrace_inference.core.batching import Batching, OnTimeout, QueuePolicy, Request
from headrace_inference.core.waiting import PATIENCE
from tests.unit.inference.served_queue import ServedQueue, busy, request


def test_a_request_runs_at_once_when_a_worker_is_free() -> None:
    served = ServedQueue()
    assert served.offer(request()) == [True]
    assert served.cut == "idle"


def test_as_many_run_as_there_are_workers() -> None:
    assert ServedQueue(workers=2).offer(request(), request(), request()) == [True, True, False]


def test_all_that_waited_runs_next_as_one_batch() -> None:
    waiting = [request(), request(3), request(4)]
    served = busy(*waiting)
    assert served.finish() == waiting
    assert served.cut == "drained"


def test_a_batch_has_no_more_rows_than_allowed() -> None:
    waiting = [request(5), request(3), request(1)]
    served = busy(*waiting, max_size=8)
    assert served.finish() == waiting[:2]
    assert served.cut == "full"
    assert served.finish() == waiting[2:]


def test_nobody_is_overtaken_by_his_own_kind() -> None:
    waiting = [request(5), request(4), request(3)]
    served = busy(*waiting, max_size=8)
    assert served.finish() == waiting[:1]
    assert served.cut == "next_too_large"
    assert served.finish() == waiting[1:]


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    waiting = [request(9), request(1)]
    served = busy(*waiting, max_size=8)
    assert served.finish() == waiting[:1]
    assert served.cut == "too_large"


def test_requests_of_another_kind_wait_for_a_batch_of_their_own() -> None:
    narrow, wide = [request(), request()], [request(width=3), request(width=3)]
    served = busy(narrow[0], wide[0], narrow[1], wide[1])
    assert served.finish() == narrow
    assert served.cut == "other_shapes"
    assert served.finish() == wide


def test_a_rare_shape_is_not_starved_by_one_that_keeps_coming() -> None:
    rare = request(width=3)
    served = busy(request(), rare, request(), max_size=2)
    batches = []
    while rare not in (batch := served.finish()):
        batches.append(batch)
        served.offer(request(), request(), request())
    assert len(batches) <= 2


@pytest.mark.parametrize("options", [{"max_size": 1}, {"joins": False}])
def test_a_model_that_is_not_batched_runs_each_alone(options: dict[str, Any]) -> None:
    waiting = [request(), request(0), request(0)]
    served = busy(*waiting, **options)
    assert served.finish() == waiting[:1]
    assert served.cut == "unbatched"
    assert served.finish() == waiting[1:2]


def test_a_worker_with_nothing_to_do_is_free_again() -> None:
    served = busy()
    assert served.finish() == []
    assert served.queue.idle
    assert served.offer(request()) == [True]


def test_what_expired_is_dropped_before_it_runs() -> None:
    late, patient = request(deadline=5), request(deadline=6)
    served = busy(late, patient)
    assert served.queue.due() == 5
    assert served.finish(now=5) == [patient]
    assert isinstance(served.dropped[late], DeadlineExceeded)


def test_a_withdrawn_request_gives_its_place_back() -> None:
    gone = request()
    served = busy(gone, max_waiting=1)
    assert served.queue.withdraw(gone)
    assert served.offer(request()) == [False]
    assert not served.queue.withdraw(gone)


def test_a_batch_is_cut_to_the_largest_preferred_size_that_is_there() -> None:
    waiting = [request() for _ in range(7)]
    served = busy(*waiting, preferred_sizes=(2, 4))
    assert [len(batch) for batch in served.serve()] == [4, 2, 1]


def learned(each_s: float, fixed_s: float, *, workers: int) -> ServedQueue:
    """A queue whose workers are idle and that has seen how long one and eight rows take."""
    served = ServedQueue(workers=workers, max_size=32)
    for rows in (1, 8):
        served.offer(request(rows))
        served.finish(infer_s=fixed_s + each_s * rows)
    return served


def test_the_rows_are_shared_out_when_the_other_workers_will_be_free_as_soon() -> None:
    served = learned(each_s=1, fixed_s=1, workers=4)
    served.offer(*(request() for _ in range(4 + 8)))
    assert len(served.finish(now=100)) == 2
    assert served.cut == "shared"


def test_rows_are_not_shared_with_workers_that_are_busy_for_longer() -> None:
    served = learned(each_s=1, fixed_s=0, workers=2)
    served.offer(request(), request(20), *(request() for _ in range(8)), now=100)
    assert len(served.finish(now=101)) == 8


def test_rows_that_cost_nothing_more_in_one_batch_are_not_shared_out() -> None:
    served = learned(each_s=0, fixed_s=1, workers=2)
    served.offer(*(request() for _ in range(2 + 8)))
    assert len(served.finish(now=100)) == 8


def test_the_first_level_goes_first_and_takes_the_others_of_its_kind_along() -> None:
    low, high, other = request(priority=2), request(priority=1), request(priority=2, width=3)
    served = busy(other, low, high, levels=2, default_level=2)
    assert served.serve() == [[high, low], [other]]


def test_a_lower_level_does_not_go_first_because_the_leader_of_a_higher_one_cannot_be_answered_in_time() -> (
    None
):
    late, alive, low = request(priority=1, deadline=1), request(priority=1, width=3), request(priority=2)
    served = busy(late, alive, low, levels=2)
    assert served.finish(infer_s=3) == [alive]
    assert list(served.dropped) == [late]
    assert served.finish() == [low]


def test_a_priority_that_is_no_level_means_the_default() -> None:
    nothing, nonsense, high = request(), request(priority=9), request(priority=1)
    served = busy(nothing, nonsense, high, levels=2, default_level=2, max_size=1)
    assert served.serve() == [[high], [nothing], [nonsense]]


def test_the_first_level_does_not_starve_the_last() -> None:
    low = request(priority=3)
    served = busy(low, levels=3, max_size=1)
    batches = 0
    served.offer(request(priority=1))
    while served.finish() != [low]:
        batches += 1
        served.offer(request(priority=1))
    assert batches == PATIENCE


def test_a_request_waits_in_the_queue_no_longer_than_its_timeout() -> None:
    impatient, patient = request(timeout_s=2), request()
    served = busy(impatient, patient)
    assert served.queue.due() == 2
    assert served.next_turn(now=2) == []
    assert "waited 2 s" in served.dropped[impatient].message
    assert served.finish(now=2) == [patient]


def test_a_policy_may_put_a_request_behind_all_others_when_its_time_is_over() -> None:
    slow = QueuePolicy(timeout_s=1, on_timeout=OnTimeout.DELAY)
    first, second = request(), request()
    served = busy(first, max_size=1, policy=slow)
    served.next_turn(now=1)
    served.offer(second, now=1)
    assert served.finish(now=1.5) == [second]
    assert served.finish(now=1.5) == [first]
    assert not served.dropped
    assert served.queue.waiting == 0


def test_what_was_put_behind_still_has_its_deadline() -> None:
    slow = QueuePolicy(timeout_s=1, on_timeout=OnTimeout.DELAY)
    late = request(deadline=3)
    served = busy(late, policy=slow)
    served.next_turn(now=1)
    assert served.queue.due() == 3
    served.next_turn(now=3)
    assert list(served.dropped) == [late]


@pytest.mark.parametrize(
    ("policy", "wished_s", "allowed_s"),
    [
        (QueuePolicy(timeout_s=5), 2, 2),
        (QueuePolicy(timeout_s=5), 9, 5),
        (QueuePolicy(timeout_s=5, callers_may_shorten=False), 2, 5),
        (QueuePolicy(), 2, 2),
        (QueuePolicy(), 0, float("inf")),
    ],
)
def test_a_caller_may_shorten_the_timeout_of_the_policy_but_not_lengthen_it(
    policy: QueuePolicy, wished_s: float, allowed_s: float
) -> None:
    assert policy.timeout(wished_s) == allowed_s


def test_with_a_delay_a_batch_waits_for_others_from_its_oldest_request_on() -> None:
    served = ServedQueue(max_delay_s=2, max_size=4)
    first, second = request(), request()
    assert served.offer(first, now=10) == [False]
    assert served.offer(second, now=11) == [False]
    assert served.queue.due() == 12
    assert served.next_turn(now=11.9) == []
    assert served.next_turn(now=12) == [first, second]
    assert served.cut == "delay_over"


def test_with_a_delay_a_batch_that_is_full_runs_at_once() -> None:
    served = ServedQueue(max_delay_s=2, max_size=4)
    assert served.offer(request(2), request(2)) == [False, True]
    assert served.cut == "full"


def test_with_a_delay_a_preferred_size_runs_at_once() -> None:
    served = ServedQueue(max_delay_s=2, max_size=8, preferred_sizes=(3,))
    assert served.offer(request(), request(), request()) == [False, False, True]
    assert served.cut == "preferred"


def test_a_delay_ends_in_time_for_the_nearest_deadline() -> None:
    served = ServedQueue(max_delay_s=2, max_size=4)
    served.offer(request(deadline=1))
    assert served.queue.due() == 1


def test_a_worker_that_becomes_free_waits_as_long_as_one_that_was() -> None:
    served = ServedQueue(max_delay_s=2, max_size=4)
    served.offer(request(4))
    late = request()
    served.offer(late, now=5)
    assert served.finish(now=6) == []
    assert served.queue.due() == 7
    assert served.next_turn(now=7) == [late]


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"max_size": 0},
        {"max_waiting": 0},
        {"levels": 0},
        {"levels": 65},
        {"max_delay_s": -1},
        {"max_wait_s": 0},
        {"max_size": 4, "preferred_sizes": (5,)},
        {"levels": 2, "default_level": 3},
        {"policies": {2: QueuePolicy()}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="it must be"):
        Batching(**settings)  # type: ignore[arg-type]  # the wrong values are the point


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30), max_size=st.integers(2, 9))
def test_every_request_of_a_caller_runs_once_and_in_order(sizes: list[int], max_size: int) -> None:
    waiting = [request(size) for size in sizes]
    batches = busy(*waiting, max_size=max_size).serve()
    ran: list[Request] = []
    for batch in batches:
        assert len(batch) == 1 or sum(one.rows for one in batch) <= max_size
        ran += batch
    assert ran == waiting
