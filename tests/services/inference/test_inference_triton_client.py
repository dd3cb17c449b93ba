"""NVIDIA's own Python client works against this server, in the same process as ours."""

import asyncio
import os
import queue
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from headrace.inference.tensors import DATATYPES, Array, dtype_of
from tests.services.inference.inference_server import WAIT_S, InferenceServer
from tests.unit.inference import onnx_models

# The types of tritonclient are unknown.
Client = Any
Input = Any


@pytest.fixture
def client(server: InferenceServer) -> Iterator[Client]:
    server.publish("affine", onnx_models.affine(2))
    client = triton.InferenceServerClient(server.address)
    client.load_model("affine")
    yield client
    client.close()


def tensor(name: str, array: Array, datatype: str = "FP32") -> Input:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def ones(rows: int = 1) -> Array:
    return np.ones((rows, 3), np.float32)


def test_server_and_model_answer_for_themselves(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("affine")
    assert client.is_model_ready("affine", "1")
    assert not client.is_model_ready("affine", "2")
    assert client.get_server_metadata().name == "headrace"
    metadata = client.get_model_metadata("affine", as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert metadata["versions"] == ["1"]


def test_an_inference_with_wished_outputs_version_and_id(client: Client) -> None:
    result = client.infer(
        "affine",
        [tensor("x", ones(5))],
        model_version="1",
        request_id="r-7",
        outputs=[triton.InferRequestedOutput("shifted")],
    )
    np.testing.assert_array_equal(result.as_numpy("shifted"), ones(5) + 1)
    assert result.as_numpy("scaled") is None
    response = result.get_response()
    assert (response.model_version, response.id) == ("1", "r-7")


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes(server: InferenceServer, client: Client, datatype: str) -> None:
    server.publish(datatype.lower(), onnx_models.identity(datatype))
    client.load_model(datatype.lower())
    if datatype == "BYTES":
        x = np.array([[b"a", "é".encode()], [b"", b"x\0y"]], np.object_)
    elif datatype == "BF16":
        x = np.array([[0, 1], [1, -2.5]], np.float32)  # tritonclient takes and gives bfloat16 as float32
    else:
        x = np.array([[0, 1], [1, 0]]).astype(dtype_of(datatype))
    y = client.infer(datatype.lower(), [tensor("x", x, datatype)]).as_numpy("y")
    assert (y.dtype, y.tolist()) == (x.dtype, x.tolist())


def test_a_callback_gets_the_answer(client: Client) -> None:
    came: Future[Any] = Future()
    client.async_infer(
        "affine", [tensor("x", ones())], lambda result, error: came.set_result(error or result)
    )
    np.testing.assert_array_equal(came.result(WAIT_S).as_numpy("scaled"), ones() * 2)


def test_errors_come_with_their_codes(client: Client) -> None:
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*model 'no' is not loaded"):
        client.infer("no", [tensor("x", ones())])
    with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*version '9'"):
        client.infer("affine", [tensor("x", ones())], model_version="9")
    with pytest.raises(
        InferenceServerException, match=r"INVALID_ARGUMENT.*shape \[1, 2\], but the model takes \[-1, 3\]"
    ):
        client.infer("affine", [tensor("x", ones()[:, :2])])
    with pytest.raises(
        InferenceServerException, match=r"FAILED_PRECONDITION.*'config': max_batch_size is -1"
    ):
        client.load_model("affine", config='{"max_batch_size": -1}')


def test_models_are_listed_and_unloaded(client: Client) -> None:
    (listed,) = client.get_model_repository_index().models
    assert (listed.name, listed.version, listed.state) == ("affine", "1", "READY")
    client.unload_model("affine")
    assert not client.is_model_ready("affine")
    assert not client.get_model_repository_index().models


def test_the_asyncio_client_works_too(server: InferenceServer, client: Client) -> None:
    async def ask() -> list[Array]:
        async with triton_aio.InferenceServerClient(server.address) as aio_client:
            assert await aio_client.is_server_ready()
            assert await aio_client.is_model_ready("affine")
            calls = [aio_client.infer("affine", [tensor("x", ones(rows))]) for rows in range(1, 20)]
            return [result.as_numpy("scaled") for result in await asyncio.gather(*calls)]

    for rows, answer in enumerate(asyncio.run(ask()), 1):
        np.testing.assert_array_equal(answer, ones(rows) * 2)


@dataclass
class Came:
    """What the callback of a stream got, in order."""

    answers: "queue.SimpleQueue[tuple[Any, Any]]" = field(default_factory=queue.SimpleQueue)

    def __call__(self, result: Any, error: Any) -> None:
        self.answers.put((result, error))

    def next(self) -> tuple[Any, Any]:
        return self.answers.get(timeout=WAIT_S)


def test_a_stream_answers_goes_on_after_an_error_and_is_closed(client: Client) -> None:
    came = Came()
    client.start_stream(came)
    for rows in (1, 2):
        client.async_stream_infer("affine", [tensor("x", ones(rows))], request_id=str(rows))
    client.async_stream_infer("affine", [tensor("x", ones()[:, :2])], request_id="wrong")
    client.async_stream_infer("affine", [tensor("x", ones(3))], enable_empty_final_response=True)
    for rows in (1, 2):
        result, error = came.next()
        assert error is None
        assert result.get_response().id == str(rows)
        np.testing.assert_array_equal(result.as_numpy("scaled"), ones(rows) * 2)
    result, error = came.next()
    assert "shape [1, 2]" in str(error)
    result, error = came.next()
    assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()


def test_the_asyncio_client_streams_too(server: InferenceServer, client: Client) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for rows in range(1, 20):
            yield {"model_name": "affine", "inputs": [tensor("x", ones(rows))]}

    async def ask() -> list[Array]:
        async with triton_aio.InferenceServerClient(server.address) as aio_client:
            answers = aio_client.stream_infer(requests())
            return [result.as_numpy("scaled") async for result, error in answers if error is None]

    for rows, answer in enumerate(asyncio.run(ask()), 1):
        np.testing.assert_array_equal(answer, ones(rows) * 2)


def test_tensors_go_by_shared_memory(client: Client) -> None:
    """The client's own functions to make memory objects are a library that its wheel for all machines lacks."""
    key = f"/headrace-triton-{os.getpid()}"
    memory = Path("/dev/shm") / key[1:]
    memory.write_bytes(ones(2).tobytes() + bytes(24))
    try:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        client.register_system_shared_memory("both", key, 48)
        (region,) = client.get_system_shared_memory_status().regions.values()
        assert (region.name, region.key, region.byte_size) == ("both", key, 48)
        x = triton.InferInput("x", [2, 3], "FP32")
        x.set_shared_memory("both", 24)
        scaled = triton.InferRequestedOutput("scaled")
        scaled.set_shared_memory("both", 24, offset=24)
        client.infer("affine", [x], outputs=[scaled])
        assert memory.read_bytes()[24:] == (ones(2) * 2).tobytes()
        client.unregister_system_shared_memory("both")
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*region 'both'"):
            client.infer("affine", [x])
    finally:
        memory.unlink()


def test_the_best_classes_are_asked_for(client: Client) -> None:
    result = client.infer(
        "affine",
        [tensor("x", np.array([[1, 3, 2]], np.float32))],
        outputs=[triton.InferRequestedOutput("scaled", class_count=2)],
    )
    assert result.as_numpy("scaled").tolist() == [[b"6.000000:1", b"4.000000:2"]]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client: Client, algorithm: str) -> None:
    result = client.infer("affine", [tensor("x", ones(1000))], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("scaled"), ones(1000) * 2)


def test_configuration_statistics_and_settings_are_told(client: Client) -> None:
    config = client.get_model_config("affine", as_json=True)["config"]
    assert (config["name"], config["max_batch_size"]) == ("affine", 32)
    client.infer("affine", [tensor("x", ones(4))], priority=2, timeout=5_000_000)
    (statistics,) = client.get_inference_statistics("affine", as_json=True)["model_stats"]
    assert (statistics["version"], statistics["inference_count"]) == ("1", "4")
    assert [batch["batch_size"] for batch in statistics["batch_stats"]] == ["4"]
    changed = client.update_trace_settings(
        "affine", {"trace_level": ["TIMESTAMPS"], "trace_rate": "7"}, as_json=True
    )
    assert changed["settings"]["trace_rate"]["value"] == ["7"]
    cleared = client.update_trace_settings("affine", {"trace_level": None, "trace_rate": None}, as_json=True)
    assert cleared == client.get_trace_settings(as_json=True)
    assert client.get_log_settings(as_json=True)["settings"]["log_error"] == {"bool_param": True}
