"""NVIDIA's own Python client works against this server, in the same process as ours."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
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
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*'config' is not known"):
        client.load_model("affine", config="{}")


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
