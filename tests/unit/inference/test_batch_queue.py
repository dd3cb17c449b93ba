"""What waits while a worker is busy becomes its next batch; nobody waits beside an idle worker."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ResourceExhausted, ShapeMismatch
from headrace_inference.core.batching import Batching, BatchQueue, Request, join, split


def request(rows: int = 1, *, width: int = 2, deadline: float = float("inf"), outputs: str = "y") -> Request:
    return Request({"x": np.full((rows, width), rows, np.float32)}, tuple(outputs), deadline)


def queue(*, workers: int = 1, max_size: int = 8, max_waiting: int = 16, joins: bool = True) -> BatchQueue:
    return BatchQueue(Batching(workers, max_size, max_waiting), joins=joins)


def busy(waiting: list[Request], *, max_size: int = 8, max_waiting: int = 16) -> BatchQueue:
    """A queue whose one worker runs something while `waiting` came in."""
    taken = queue(max_size=max_size, max_waiting=max_waiting)
    assert taken.offer(request(), now=0)
    for one in waiting:
        assert not taken.offer(one, now=0)
    return taken


def test_a_request_runs_at_once_when_a_worker_is_free() -> None:
    assert queue().offer(request(), now=0)


def test_as_many_run_as_there_are_workers() -> None:
    taken = queue(workers=2)
    assert [taken.offer(request(), now=0) for _ in range(3)] == [True, True, False]


def test_all_that_waited_runs_next_as_one_batch() -> None:
    waiting = [request(), request(3), request(4)]
    assert busy(waiting).next_turn(now=0).batch == waiting


def test_a_batch_has_no_more_rows_than_allowed() -> None:
    waiting = [request(5), request(3), request(1)]
    taken = busy(waiting, max_size=8)
    assert taken.next_turn(now=0).batch == waiting[:2]
    assert taken.next_turn(now=0).batch == waiting[2:]


def test_nobody_is_overtaken_by_his_own_kind() -> None:
    waiting = [request(5), request(4), request(3)]
    taken = busy(waiting, max_size=8)
    assert taken.next_turn(now=0).batch == waiting[:1]
    assert taken.next_turn(now=0).batch == waiting[1:]


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    waiting = [request(9), request(1)]
    assert busy(waiting, max_size=8).next_turn(now=0).batch == waiting[:1]


def test_requests_of_another_kind_wait_for_a_batch_of_their_own() -> None:
    narrow, wide = [request(), request()], [request(width=3), request(width=3)]
    taken = busy([narrow[0], wide[0], narrow[1], wide[1]])
    assert taken.next_turn(now=0).batch == narrow
    assert taken.next_turn(now=0).batch == wide


def test_with_batches_of_one_each_runs_alone() -> None:
    waiting = [request(), request()]
    assert busy(waiting, max_size=1).next_turn(now=0).batch == waiting[:1]


def test_a_model_whose_rows_are_not_independent_runs_each_alone() -> None:
    taken = queue(joins=False)
    waiting = [request(), request()]
    for one in [request(), *waiting]:
        taken.offer(one, now=0)
    assert taken.next_turn(now=0).batch == waiting[:1]


def test_a_worker_with_nothing_to_do_is_free_again() -> None:
    taken = busy([])
    assert not taken.next_turn(now=0).batch
    assert taken.idle
    assert taken.offer(request(), now=0)


def test_one_request_too_many_is_refused_and_told_when_to_come_back() -> None:
    taken = busy([request(), request()], max_waiting=2)
    with pytest.raises(ResourceExhausted, match="2 requests wait for the model already") as raised:
        taken.offer(request(), now=0)
    assert raised.value.retry_after_s


def test_what_expired_is_dropped_before_it_runs() -> None:
    late, patient = request(deadline=5), request(deadline=6)
    turn = busy([late, patient]).next_turn(now=5)
    assert (turn.batch, turn.expired) == ([patient], [late])


def test_a_withdrawn_request_gives_its_place_back() -> None:
    gone = request()
    taken = busy([gone], max_waiting=1)
    assert taken.withdraw(gone)
    assert not taken.offer(request(), now=0)
    assert not taken.withdraw(gone)


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=30), max_size=st.integers(1, 9))
def test_every_request_runs_once_and_in_order(sizes: list[int], max_size: int) -> None:
    waiting = [request(size) for size in sizes]
    taken = busy(waiting, max_size=max_size, max_waiting=30)
    ran: list[Request] = []
    while turn := taken.next_turn(now=0).batch:
        assert len(turn) == 1 or sum(one.rows for one in turn) <= max_size
        ran += turn
    assert ran == waiting
    assert taken.idle


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_each_gets_its_own_rows_back(sizes: list[int]) -> None:
    batch = [request(size) for size in sizes]
    inputs, _ = join(batch)
    for one, outputs in zip(batch, split({"y": inputs["x"] * 2}, batch), strict=True):
        np.testing.assert_array_equal(outputs["y"], one.inputs["x"] * 2)


def test_each_gets_the_outputs_it_wished() -> None:
    batch = [request(outputs="y"), request(outputs="zy")]
    inputs, wished = join(batch)
    assert wished == ("y", "z")
    first, second = split(dict.fromkeys(wished, inputs["x"]), batch)
    assert (list(first), list(second)) == (["y"], ["z", "y"])


def test_an_output_without_a_row_for_each_is_noticed() -> None:
    with pytest.raises(ShapeMismatch, match=r"output 'y' has shape \[1\] for 2 rows"):
        split({"y": np.zeros(1)}, [request(), request()])
