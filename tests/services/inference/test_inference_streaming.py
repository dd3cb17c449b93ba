"""Many requests on one stream, through a real server."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headrace.errors import Cancelled, InvalidArgument, ServerDraining
from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from tests.services.inference.inference_server import WAIT_S, Gate, InferenceServer, serve_inference
from tests.unit.inference import onnx_models


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def server(tmp_path: Path, gate: Gate) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path, open_runner=gate.open_runner) as served, served.client() as client:
        for model in ("affine", "other"):
            served.publish(model, onnx_models.affine(2))
            client.load(model)
        yield served


class Stream:
    """An open stream: what is sent now is answered while it stays open."""

    def __init__(self, server: InferenceServer, **options: Any) -> None:
        self._requests: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self.answers = server.stub.ModelStreamInfer(iter(self._requests.get, None), timeout=WAIT_S, **options)

    def send(self, x: float, *, model: str = "affine", request_id: str = "", **options: Any) -> None:
        inputs = {"x": np.full((1, 3), x, np.float32)}
        self._requests.put(infer_request(model, inputs, request_id=request_id, **options))

    def put(self, request: pb.ModelInferRequest) -> None:
        self._requests.put(request)

    def next(self) -> pb.ModelStreamInferResponse:
        return next(self.answers)

    def close(self) -> None:
        self._requests.put(None)


def scaled(answer: pb.ModelStreamInferResponse) -> float:
    assert answer.error_message == ""
    return float(outputs_of(answer.infer_response)["scaled"][0, 0])


def test_requests_are_answered_in_their_order_and_name_their_ids(server: InferenceServer) -> None:
    stream = Stream(server)
    for number in range(200):
        stream.send(number, request_id=f"r-{number}")
    stream.close()
    answers = list(stream.answers)
    assert [scaled(answer) for answer in answers] == [2.0 * number for number in range(200)]
    assert [answer.infer_response.id for answer in answers] == [f"r-{number}" for number in range(200)]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)


def test_an_answer_comes_while_the_stream_stays_open(server: InferenceServer) -> None:
    stream = Stream(server)
    for number in range(3):
        stream.send(number)
        assert scaled(stream.next()) == 2 * number
    stream.close()
    assert list(stream.answers) == []


def test_requests_of_one_stream_run_together_and_the_quick_one_waits_for_its_turn(
    server: InferenceServer, gate: Gate
) -> None:
    gate.close()
    stream = Stream(server)
    stream.send(1, model="affine")
    gate.wait_for_a_run()
    stream.send(2, model="other")
    gate.wait_for_a_run()  # the second request runs while the first one does
    gate.let_through(2)
    assert [scaled(stream.next()), scaled(stream.next())] == [2, 4]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (infer_request("no", {"x": np.ones((1, 3), np.float32)}, request_id="bad"), "model 'no' is not loaded"),
        (infer_request("affine", {"x": np.ones((1, 2), np.float32)}, request_id="bad"), "shape [1, 2]"),
        (pb.ModelInferRequest(model_name="affine", id="bad"), "input 'x' is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_an_answer_and_the_stream_goes_on(
    server: InferenceServer, request_: pb.ModelInferRequest, message: str
) -> None:
    stream = Stream(server)
    stream.send(1)
    stream.put(request_)
    stream.send(3)
    stream.close()
    first, wrong, last = stream.answers
    assert [scaled(first), scaled(last)] == [2, 6]
    assert message in wrong.error_message
    assert (wrong.infer_response.id, wrong.infer_response.model_name) == ("bad", request_.model_name)


def test_a_strict_stream_ends_with_the_status_of_the_first_error(server: InferenceServer) -> None:
    stream = Stream(server, metadata=[("triton_grpc_error", "true")])
    stream.send(1)
    stream.send(2, outputs=["no"])
    assert scaled(stream.next()) == 2
    with pytest.raises(InvalidArgument, match="no output 'no'"):
        stream.next()


def test_more_requests_than_may_be_in_flight_wait_with_the_caller(
    server: InferenceServer, gate: Gate
) -> None:
    gate.close()
    stream = Stream(server)
    for number in range(300):
        stream.send(number)
    stream.close()
    gate.let_through(300)
    assert [scaled(answer) for answer in stream.answers] == [2.0 * number for number in range(300)]


def test_a_cancelled_stream_leaves_nothing_behind(server: InferenceServer, gate: Gate) -> None:
    gate.close()
    stream = Stream(server)
    for number in range(100):
        stream.send(number)
    gate.wait_for_a_run()
    stream.answers.cancel()
    with pytest.raises(Cancelled):
        stream.next()
    gate.let_through(200)  # what runs already ends; nothing else is left to run
    with server.client() as client:
        client.unload("affine")


def test_a_server_that_stops_says_so_on_open_streams(server: InferenceServer) -> None:
    stream = Stream(server)
    stream.send(1)
    assert scaled(stream.next()) == 2
    assert server.channel.server.drain(WAIT_S)
    with pytest.raises(ServerDraining, match="open the stream again"):
        stream.next()


@pytest.mark.parametrize("turbo", [False, True])
def test_what_is_no_request_ends_the_stream(tmp_path: Path, turbo: bool) -> None:
    with (
        serve_inference(tmp_path, turbo=turbo) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        call: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        endless: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        endless.put(b"\xff\xff")
        with pytest.raises(grpc.RpcError) as refused:
            next(call(iter(endless.get, None), timeout=WAIT_S))
        endless.put(None)
    assert refused.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
