"""The Open Inference Protocol as callers see it, through a real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import (
    DtypeMismatch,
    HeadraceError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ShapeMismatch,
)
from headrace.inference.client import AsyncInferenceClient, InferenceClient, TensorMetadata
from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.tensors import DATATYPES, Array, dtype_of, encode_typed, has_typed_form
from headrace.rpc.authorization import Principal, Role
from tests.services.inference.inference_server import InferenceServer, serve_inference
from tests.unit.inference import onnx_models


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    """One server for all tests here, with a model for each datatype, "affine" in version 2, and "gather"."""
    with serve_inference(tmp_path_factory.mktemp("registry")) as served, served.client() as client:
        for datatype in DATATYPES:
            served.publish(datatype.lower(), onnx_models.identity(datatype))
            client.load(datatype.lower())
        served.publish("affine", onnx_models.affine(2))
        served.publish("affine", onnx_models.affine(3))
        client.load("affine")
        served.publish("gather", onnx_models.gather())
        client.load("gather")
        yield served


def example(datatype: str) -> Array:
    if datatype == "BYTES":
        return np.array([[b"a", "é".encode()], [b"", b"x\0y"]], np.object_)
    return np.array([[0, 1], [1, 0]]).astype(dtype_of(datatype))


def ones(rows: int = 1) -> Array:
    return np.ones((rows, 3), np.float32)


def test_the_server_says_what_it_is(client: InferenceClient) -> None:
    assert client.server_live()
    assert client.server_ready()
    assert client.server_metadata().name == "headrace"
    extensions = client.server_metadata().extensions
    assert {"model_repository", "statistics", "system_shared_memory", "classification"} <= set(extensions)


def test_a_model_says_what_it_takes_and_gives(client: InferenceClient) -> None:
    metadata = client.metadata("affine")
    assert (metadata.name, metadata.versions, metadata.platform) == ("affine", ("2",), "onnx")
    assert metadata.inputs == (TensorMetadata("x", "FP32", (-1, 3)),)
    assert [output.name for output in metadata.outputs] == ["scaled", "shifted"]
    assert metadata.properties["version"] == "projects/default/models/affine/versions/2"
    assert metadata.properties["file"] == "0.onnx"
    assert metadata.properties["batched"] == "true"


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("affine", "", True),
        ("affine", "2", True),
        ("affine", "1", False),
        ("affine", "x", False),
        ("no", "", False),
    ],
)
def test_a_model_is_ready_in_the_version_that_is_loaded(
    client: InferenceClient, model: str, version: str, ready: bool
) -> None:
    assert client.model_ready(model, version) == ready


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes_in_raw_contents(client: InferenceClient, datatype: str) -> None:
    x = example(datatype)
    y = client.infer(datatype.lower(), {"x": x})["y"]
    assert (y.dtype, y.tolist()) == (x.dtype, x.tolist())


@pytest.mark.parametrize("datatype", [datatype for datatype in DATATYPES if has_typed_form(datatype)])
def test_every_datatype_passes_in_typed_contents_and_is_answered_so(
    server: InferenceServer, datatype: str
) -> None:
    x = example(datatype)
    request = pb.ModelInferRequest(model_name=datatype.lower())
    request.inputs.add(name="x", datatype=datatype, shape=x.shape, contents=encode_typed(x))
    response = server.stub.ModelInfer(request)
    assert not response.raw_output_contents
    assert outputs_of(response)["y"].tolist() == x.tolist()


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_contents(server: InferenceServer, datatype: str) -> None:
    request = pb.ModelInferRequest(model_name=datatype.lower())
    request.inputs.add(name="x", datatype=datatype, shape=[1, 1]).contents.fp32_contents.append(1)
    with pytest.raises(DtypeMismatch, match=f"input 'x': {datatype} has no typed contents"):
        server.stub.ModelInfer(request)


@pytest.mark.parametrize("rows", [0, 1, 3, 33, 1000])
def test_any_number_of_rows_is_answered(client: InferenceClient, rows: int) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    np.testing.assert_array_equal(client.infer("affine", {"x": x})["scaled"], 3 * x)


def test_only_the_wished_outputs_come_in_the_wished_order(client: InferenceClient) -> None:
    assert list(client.infer("affine", {"x": ones()})) == ["scaled", "shifted"]
    assert list(client.infer("affine", {"x": ones()}, outputs=["shifted"])) == ["shifted"]
    assert list(client.infer("affine", {"x": ones()}, outputs=["shifted", "scaled"])) == ["shifted", "scaled"]


def test_the_answer_names_version_and_request(server: InferenceServer) -> None:
    response = server.stub.ModelInfer(infer_request("affine", {"x": ones()}, version="2", request_id="r-7"))
    assert (response.model_name, response.model_version, response.id) == ("affine", "2", "r-7")


@pytest.mark.parametrize(
    ("model", "version", "inputs", "outputs", "error", "message"),
    [
        ("no", "", {"x": ones()}, [], NotFound, "model 'no' is not loaded in project 'default'; loaded are affine, bf16"),
        ("affine", "1", {"x": ones()}, [], NotFound, "version '1' of model 'affine' is not loaded; version '2' is"),
        ("affine", "", {}, [], InvalidArgument, "input 'x' is missing; its inputs are 'x' FP32 [-1, 3]"),
        ("affine", "", {"X": ones()}, [], InvalidArgument, "no input 'X'; its inputs are 'x' FP32 [-1, 3]"),
        ("affine", "", {"x": ones().astype(int)}, [], DtypeMismatch, "'x' is INT64, but the model takes FP32"),
        ("affine", "", {"x": ones()[0]}, [], ShapeMismatch, "shape [3], but the model takes [-1, 3]"),
        ("affine", "", {"x": ones()[:, :2]}, [], ShapeMismatch, "shape [1, 2], but the model takes [-1, 3]"),
        ("affine", "", {"x": ones()}, ["z"], InvalidArgument, "no output 'z'; its outputs are 'scaled' FP32 [-1, 3]"),
        ("gather", "", {"x": np.array([3])}, [], InvalidArgument, "cannot run these inputs: indices element out of"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_the_value_and_what_would_do(
    client: InferenceClient,
    model: str,
    version: str,
    inputs: dict[str, Array],
    outputs: list[str],
    error: type[HeadraceError],
    message: str,
) -> None:
    with pytest.raises(error) as raised:
        client.infer(model, inputs, version=version, outputs=outputs)
    assert message in raised.value.message
    assert type(raised.value) is error


@pytest.mark.parametrize("letter", ["x", "é", "🜁"])
def test_an_error_about_a_very_long_name_keeps_its_code(client: InferenceClient, letter: str) -> None:
    """Trailers have a limit in gRPC, and a message names what the caller sent."""
    with pytest.raises(NotFound, match=r"\.\.\.$"):
        client.infer(letter * 100_000, {"x": ones()})
    with pytest.raises(InvalidArgument, match=r"\.\.\.$"):
        client.infer("affine", {letter * 100_000: ones()})


def raw(
    datatype: str = "FP32", shape: tuple[int, ...] = (1, 3), data: tuple[bytes, ...] = (b"\0" * 12,)
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="affine", raw_input_contents=data)
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    return request


def both_forms() -> pb.ModelInferRequest:
    request = raw()
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    return request


def twice() -> pb.ModelInferRequest:
    request = raw(data=(b"\0" * 12, b"\0" * 12))
    request.inputs.append(request.inputs[0])
    return request


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (raw(datatype="FP31"), DtypeMismatch, "input 'x': datatype 'FP31' is none of BOOL"),
        (raw(data=(b"\0" * 11,)), ShapeMismatch, "input 'x': 11 bytes of contents, but FP32 of shape [1, 3] has 12"),
        (raw(shape=(-1, 3)), InvalidArgument, "input 'x': shape [-1, 3] has a negative dimension"),
        (raw(shape=(1 << 40, 1 << 40)), ShapeMismatch, "12 bytes of contents"),
        (raw(data=(b"", b"")), InvalidArgument, "raw_input_contents has 2 entries for 1 inputs;"),
        (both_forms(), InvalidArgument, "input 'x': has contents beside the raw contents"),
        (twice(), InvalidArgument, "inputs has 'x' twice"),
        (raw(datatype="BYTES", data=(b"\5\0\0\0ab",)), InvalidArgument, "BYTES contents end within element 0"),
    ],
    ids=["datatype", "size", "negative", "huge", "entries", "both forms", "twice", "cut off"],
)  # fmt: skip
def test_contents_that_do_not_make_a_tensor_are_refused(
    server: InferenceServer, request_: pb.ModelInferRequest, error: type[HeadraceError], message: str
) -> None:
    with pytest.raises(error) as raised:
        server.stub.ModelInfer(request_)
    assert message in raised.value.message
    assert raised.value.field is not None


def test_a_project_sees_only_its_own_models(server: InferenceServer) -> None:
    with server.client(project="other") as stranger:
        assert stranger.index() == []
        assert not stranger.model_ready("affine")
        with pytest.raises(NotFound, match="'affine' is not loaded in project 'other'; none is loaded"):
            stranger.infer("affine", {"x": ones()})


def test_a_viewer_infers_but_does_not_load(tmp_path: Path) -> None:
    viewer = Principal("ann", "default", frozenset({Role.VIEWER}))
    with serve_inference(tmp_path, authenticate=lambda _: viewer) as served, served.client() as client:
        assert client.index() == []
        with pytest.raises(PermissionDenied, match="ann lacks the role EDITOR"):
            client.load("digits")
        with pytest.raises(PermissionDenied, match="ann lacks the role EDITOR"):
            client.unload("digits")


def test_an_editor_loads_only_from_his_own_project(tmp_path: Path) -> None:
    editor = Principal("ann", "default", frozenset({Role.EDITOR}))
    with (
        serve_inference(tmp_path, authenticate=lambda _: editor) as served,
        served.client() as client,
        pytest.raises(PermissionDenied, match="ann has no role in projects/other"),
    ):
        client.load("digits", version="projects/other/models/digits/versions/1")


def test_the_asyncio_client_does_the_same(server: InferenceServer) -> None:
    async def ask() -> tuple[bool, tuple[str, ...], list[Array]]:
        async with AsyncInferenceClient(server.address) as client:
            calls = [client.infer("affine", {"x": ones()}, outputs=["scaled"]) for _ in range(20)]
            answers = await asyncio.gather(*calls)
            with pytest.raises(NotFound):
                await client.infer("no", {"x": ones()})
            metadata = await client.metadata("affine")
            return await client.model_ready("affine"), metadata.versions, [a["scaled"] for a in answers]

    ready, versions, answers = asyncio.run(ask())
    assert (ready, versions) == (True, ("2",))
    assert [answer.tolist() for answer in answers] == [[[3, 3, 3]]] * 20
