"""Requests of many callers share a run; none waits for nothing, none harms another. A gate takes the place of time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import helper
from prometheus_client import generate_latest

from headrace.errors import Cancelled, DeadlineExceeded, InvalidArgument, ResourceExhausted, ServerDraining
from headrace.inference.client import InferenceClient
from headrace.inference.messages import infer_request, outputs_of
from headrace.testing import until
from headrace_inference.core.batching import Batching
from headrace_inference.core.catalog import Key
from tests.services.inference.inference_server import WAIT_S, Gate, InferenceServer, serve_inference
from tests.unit.inference import onnx_models

MAX_WAITING = 4


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def server(tmp_path: Path, gate: Gate) -> Iterator[InferenceServer]:
    """A server with two models behind the gate, which is closed."""
    batching = Batching(max_size=4, max_waiting=MAX_WAITING)
    with serve_inference(tmp_path, open_runner=gate.open_runner, batching=batching) as served:
        with served.client() as client:
            served.publish("affine", onnx_models.affine(2))
            served.publish("gather", gather_pairs())
            client.load("affine")
            client.load("gather")
        gate.close()
        yield served
        gate.let_through(100)


def gather_pairs() -> bytes:
    """Make y = table[x] for x of shape [n, 1], so that an index of 3 fails the run it is in."""
    return onnx_models.model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [onnx_models.tensor("x", "INT64", ("n", 1))],
        [onnx_models.tensor("y", "FP32", ("n", 1, 2))],
        table=np.arange(6, dtype=np.float32).reshape(3, 2),
    )


Call = Any  # a future of gRPC, whose types know neither `code` nor `exception`


def begin(server: InferenceServer, value: float, *, timeout_s: float = WAIT_S) -> Call:
    """Send a row of `value` to "affine"."""
    request = infer_request("affine", {"x": np.full((1, 3), value, np.float32)}, outputs=["scaled"])
    return server.stub.ModelInfer.future(request, timeout=timeout_s)


def run_one(server: InferenceServer, gate: Gate) -> Call:
    """Send 0 and return the call when it stands at the gate, so that whatever comes next must wait."""
    call = begin(server, 0)
    gate.wait_for_a_run()
    return call


def queue(server: InferenceServer, *values: float, timeout_s: float = WAIT_S) -> list[Call]:
    """Send values one after the other, each when the one before it waits in the queue."""
    calls = []
    for value in values:
        calls.append(begin(server, value, timeout_s=timeout_s))
        wait_for_queue(server, len(calls))
    return calls


def wait_for_queue(server: InferenceServer, length: int, model: str = "affine") -> None:
    engine = server.models.find(Key("default", model)).engine
    until(lambda: engine.waiting == length)


def scaled(call: Call) -> float:
    return float(outputs_of(call.result(WAIT_S))["scaled"][0, 0])


def test_requests_that_come_while_one_runs_share_the_next_run(server: InferenceServer, gate: Gate) -> None:
    calls = [run_one(server, gate), *queue(server, 1, 2, 3)]
    gate.let_through(2)
    assert [scaled(call) for call in calls] == [0, 2, 4, 6]
    assert gate.ran == [[0], [1, 2, 3]]
    metrics = generate_latest(server.metrics).decode()
    assert 'headrace_inference_batch_rows_sum{model="affine",project="default",version="1"} 4.0' in metrics
    assert 'headrace_inference_batch_rows_count{model="affine",project="default",version="1"} 2.0' in metrics
    assert (
        'headrace_inference_queue_seconds_count{model="affine",project="default",version="1"} 4.0' in metrics
    )
    assert 'headrace_inference_run_seconds_count{model="affine",project="default",version="1"} 2.0' in metrics
    assert (
        'headrace_inference_requests_total{model="affine",outcome="OK",project="default",version="1"} 4.0'
        in metrics
    )


def test_a_request_whose_deadline_passed_in_the_queue_never_runs(server: InferenceServer, gate: Gate) -> None:
    first = run_one(server, gate)
    late = begin(server, 1, timeout_s=0.2)
    with pytest.raises(DeadlineExceeded):
        scaled(late)
    wait_for_queue(server, 0)
    gate.let_through()
    assert scaled(first) == 0
    assert gate.ran == [[0]]


def test_a_cancelled_request_gives_its_place_in_the_queue_back(server: InferenceServer, gate: Gate) -> None:
    first = run_one(server, gate)
    gone, *others = queue(server, 1, 2, 3, 4)
    gone.cancel()
    wait_for_queue(server, MAX_WAITING - 1)
    late = begin(server, 5)
    wait_for_queue(server, MAX_WAITING)
    gate.let_through(2)
    assert [scaled(call) for call in (first, *others, late)] == [0, 4, 6, 8, 10]
    assert gate.ran == [[0], [2, 3, 4, 5]]
    with pytest.raises((Cancelled, grpc.FutureCancelledError)):
        scaled(gone)


def test_a_full_queue_refuses_and_says_when_to_come_back(server: InferenceServer, gate: Gate) -> None:
    calls = [run_one(server, gate), *queue(server, 1, 2, 3, 4)]
    with pytest.raises(ResourceExhausted, match="4 requests wait for the model already") as raised:
        scaled(begin(server, 5))
    assert raised.value.retry_after_s == pytest.approx(0.1)
    gate.let_through(2)
    assert [scaled(call) for call in calls] == [0, 2, 4, 6, 8]


def test_a_request_that_fails_in_the_middle_of_a_batch_harms_no_neighbour(
    server: InferenceServer, gate: Gate
) -> None:
    def send(index: int) -> Call:
        return server.stub.ModelInfer.future(
            infer_request("gather", {"x": np.array([[index]])}), timeout=WAIT_S
        )

    calls = [send(0)]
    gate.wait_for_a_run()
    for position, index in enumerate((1, 3, 2), 1):
        calls.append(send(index))
        wait_for_queue(server, position, "gather")
    gate.let_through(6)
    first, good, bad, better = calls
    rows = [outputs_of(call.result(WAIT_S))["y"].ravel().tolist() for call in (first, good, better)]
    assert rows == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InvalidArgument, match="idx=3 must be within"):
        bad.result(WAIT_S)
    assert gate.ran == [[0], [1, 3, 2], [1], [3, 2], [3], [2]]


def test_a_request_that_does_not_fit_is_refused_before_it_waits(server: InferenceServer, gate: Gate) -> None:
    first = run_one(server, gate)
    with pytest.raises(InvalidArgument, match="the model takes"):
        server.stub.ModelInfer(infer_request("affine", {"x": np.ones((1, 4), np.float32)}))
    gate.let_through()
    assert scaled(first) == 0


def test_one_model_does_not_wait_for_another(server: InferenceServer, gate: Gate) -> None:
    slow = run_one(server, gate)
    other = server.stub.ModelInfer.future(infer_request("gather", {"x": np.array([[1]])}), timeout=WAIT_S)
    gate.wait_for_a_run()
    gate.let_through(2)
    assert scaled(slow) == 0
    assert outputs_of(other.result(WAIT_S))["y"].ravel().tolist() == [2, 3]


def test_a_draining_server_answers_what_it_has_and_says_that_it_is_not_ready(
    tmp_path: Path, gate: Gate
) -> None:
    draining = threading.Event()
    with (
        serve_inference(
            tmp_path, open_runner=gate.open_runner, is_ready=lambda: not draining.is_set()
        ) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        server.publish("affine", onnx_models.affine(2))
        client.load("affine")
        assert client.server_ready()
        gate.close()
        running = run_one(server, gate)
        draining.set()
        drained = pool.submit(server.channel.server.drain, WAIT_S)
        until(lambda: _refuses(client))
        assert client.server_live()
        assert not client.server_ready()
        gate.let_through()
        assert scaled(running) == 0
        assert drained.result(WAIT_S)


def _refuses(client: InferenceClient) -> bool:
    try:
        client.index()
    except ServerDraining:
        return True
    return False
