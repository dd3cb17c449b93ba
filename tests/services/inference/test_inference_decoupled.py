"""Models that give any number of answers to a request, through a real server."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import Cancelled, InvalidArgument, Unimplemented
from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2 import model_config_pb2, statistics_pb2
from headrace_inference.core.batching import Arrays
from headrace_inference.core.signature import Signature, Tensor
from headrace_inference.streaming import MAX_UNSENT
from tests.services.inference.inference_server import WAIT_S, InferenceServer, serve_inference
from tests.unit.inference import onnx_models


class Counting:
    """Answers with 0, 1, 2, ... as often as the input says; below none, an error comes after the first answer."""

    signature = Signature((Tensor("count", "INT64", (1,)),), (Tensor("index", "INT64", (1,)),))

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.given = 0

    def answers(self, inputs: Arrays, outputs: Sequence[str]) -> Iterator[Arrays]:
        assert list(outputs) == ["index"]
        count = int(inputs["count"][0])
        try:
            for index in range(abs(count)):
                self.given += 1
                yield {"index": np.array([index])}
                if count < 0:
                    raise InvalidArgument("the model cannot run these inputs: it counts up")
        finally:
            self.closed.set()

    def close(self) -> None:
        pass


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def server(tmp_path: Path, counting: Counting) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path, open_runner=lambda *_: counting) as served, served.client() as client:
        served.publish("counting", onnx_models.affine())
        client.load("counting")
        yield served


def ask(count: int, *, final: bool = False, **options: Any) -> pb.ModelInferRequest:
    request = infer_request("counting", {"count": np.array([count])}, **options)
    if final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def stream(server: InferenceServer, *requests: pb.ModelInferRequest) -> Any:
    return server.stub.ModelStreamInfer(iter(requests), timeout=WAIT_S)


def indices(answers: Iterator[pb.ModelStreamInferResponse], request_id: str = "") -> list[int]:
    of_it = [answer.infer_response for answer in answers if answer.infer_response.id == request_id]
    return [int(outputs_of(answer)["index"][0]) for answer in of_it]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_any_number_of_answers_comes(server: InferenceServer, count: int) -> None:
    assert indices(stream(server, ask(count))) == list(range(count))


def test_several_requests_of_a_stream_get_each_their_own_answers(server: InferenceServer) -> None:
    answers = list(stream(server, ask(3, request_id="a"), ask(0, request_id="b"), ask(2, request_id="c")))
    assert [indices(iter(answers), one) for one in "abc"] == [[0, 1, 2], [], [0, 1]]


def test_the_end_is_told_by_an_empty_answer_to_who_wants_to_know(server: InferenceServer) -> None:
    *answers, last = stream(server, ask(2, final=True, request_id="r"))
    assert [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers] == [
        False,
        False,
    ]
    assert last.infer_response.parameters["triton_final_response"].bool_param
    assert (last.infer_response.id, len(last.infer_response.outputs)) == ("r", 0)


def test_an_error_after_some_answers_is_an_answer_too(server: InferenceServer) -> None:
    first, error, other = stream(server, ask(-3, request_id="wrong"), ask(1, request_id="right"))
    answers = sorted((first, error, other), key=lambda answer: answer.error_message)
    assert "it counts up" in answers[-1].error_message
    assert answers[-1].infer_response.id == "wrong"


def test_a_slow_reader_keeps_the_model_waiting(server: InferenceServer, counting: Counting) -> None:
    answers = stream(server, ask(1_000_000))
    next(answers)
    answers.cancel()
    with pytest.raises(Cancelled):
        list(answers)
    assert counting.closed.wait(WAIT_S)
    # Beside those that wait here, some lie in buffers of gRPC: 64 KiB on each side, of messages above 30 bytes.
    assert counting.given < MAX_UNSENT + 10_000


def test_a_single_answer_cannot_be_asked_for(server: InferenceServer) -> None:
    with pytest.raises(Unimplemented, match="any number of answers; ask it on ModelStreamInfer"):
        server.stub.ModelInfer(ask(1))


def test_wrong_inputs_are_refused_as_those_of_other_models(server: InferenceServer) -> None:
    (answer,) = stream(server, infer_request("counting", {"count": np.array([1.0])}))
    assert "'count' is FP64, but the model takes INT64" in answer.error_message


def test_configuration_and_statistics_know_of_it(server: InferenceServer) -> None:
    assert len(list(stream(server, ask(2)))) == 2
    config = server.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="counting")).config
    assert config.model_transaction_policy.decoupled
    request = statistics_pb2.ModelStatisticsRequest(name="counting")
    (counted,) = server.stub.ModelStatistics(request).model_stats
    assert counted.inference_stats.success.count == 1
    assert [(at, stats.success.count, stats.empty_response.count) for at, stats in sorted(counted.response_stats.items())] == [
        ("0", 1, 0),
        ("1", 1, 0),
        ("2", 0, 1),
    ]  # fmt: skip


def test_it_is_unloaded_when_its_answers_are_given(server: InferenceServer) -> None:
    assert len(list(stream(server, ask(5)))) == 5
    with server.client() as client:
        client.unload("counting")
    answer = next(iter(stream(server, ask(1))))
    assert "is not loaded" in answer.error_message
