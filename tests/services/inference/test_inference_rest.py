"""The protocol over HTTP, as a caller of `/v2/...` sees it."""

import gzip
import http.client
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.inference.tensors import DATATYPES, dtype_of, encode_raw
from headrace.rpc.authorization import Principal, Role
from headrace_inference.rest.serving import serve_http
from tests.services.inference.inference_server import WAIT_S, InferenceServer, serve_inference
from tests.unit.inference import onnx_models

MAX_BODY = 100_000


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Caller:
    address: str

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self._ask("POST", path, data, headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path_factory.mktemp("registry")) as served, served.client() as client:
        for datatype in DATATYPES:
            served.publish(datatype.lower(), onnx_models.identity(datatype))
            client.load(datatype.lower())
        served.publish("affine", onnx_models.affine(2))
        client.load("affine")
        yield served


@pytest.fixture(scope="module")
def caller(server: InferenceServer) -> Iterator[Caller]:
    with serve_http(
        "127.0.0.1:0", grpc_address=server.address, max_connections=16, max_body_bytes=MAX_BODY
    ) as address:
        yield Caller(address)


def ask(data: Any = (1, 5, 2), *, datatype: str = "FP32", shape: Any = (1, 3), **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more}


def test_server_and_model_answer_for_themselves(caller: Caller) -> None:
    assert (caller.get("/v2/health/live").status, caller.get("/v2/health/ready").status) == (200, 200)
    assert caller.get("/v2").json["name"] == "headrace"
    assert caller.get("/v2/models/affine/ready").status == 200
    assert caller.get("/v2/models/affine/versions/1/ready").status == 200
    other = caller.get("/v2/models/affine/versions/2/ready")
    assert (other.status, other.json) == (400, {"name": "affine", "ready": False})
    assert caller.get("/v2/models/affine").json["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    ]
    config = caller.get("/v2/models/affine/config").json
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (32, "TYPE_FP32")


def test_an_inference_in_json(caller: Caller) -> None:
    answer = caller.post("/v2/models/affine/versions/1/infer", ask(id="r-7", outputs=[{"name": "scaled"}]))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {
        "model_name": "affine",
        "model_version": "1",
        "id": "r-7",
        "outputs": [{"name": "scaled", "datatype": "FP32", "shape": [1, 3], "data": [2, 10, 4]}],
    }


def test_data_may_be_nested_by_rows(caller: Caller) -> None:
    answer = caller.post("/v2/models/affine/infer", ask([[1, 2, 3], [4, 5, 6]], shape=[2, 3]))
    assert answer.json["outputs"][1]["data"] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes_as_raw_contents(caller: Caller, datatype: str) -> None:
    x = np.array([[0, 1], [1, 0]]).astype(dtype_of(datatype))
    if datatype == "BYTES":
        x = np.array([[b"a", b"\xc3\xa9"], [b"", b"xy"]], np.object_)
    raw = encode_raw(x)
    tensor = {
        "name": "x",
        "datatype": datatype,
        "shape": [2, 2],
        "parameters": {"binary_data_size": len(raw)},
    }
    document = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = caller.post(
        f"/v2/models/{datatype.lower()}/infer",
        document + raw,
        Inference_Header_Content_Length=str(len(document)),
    )
    assert answer.status == 200, answer.body
    size = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.body[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(raw)}
    assert answer.body[size:] == raw


def test_texts_pass_in_json_and_one_output_may_be_raw_while_the_other_is_not(caller: Caller) -> None:
    answer = caller.post("/v2/models/bytes/infer", ask(["a", "é"], datatype="BYTES", shape=[2, 1]))
    assert answer.json["outputs"][0]["data"] == ["a", "é"]
    wished = [{"name": "scaled", "parameters": {"binary_data": True}}, {"name": "shifted"}]
    answer = caller.post("/v2/models/affine/infer", ask(outputs=wished))
    size = int(answer.headers["Inference-Header-Content-Length"])
    scaled, shifted = json.loads(answer.body[:size])["outputs"]
    assert np.frombuffer(answer.body[size:], np.float32).tolist() == [2, 10, 4]
    assert ("data" in scaled, shifted["data"]) == (False, [2, 6, 3])


def test_classes_and_shared_memory_are_parameters_as_everywhere(caller: Caller) -> None:
    wished = [{"name": "scaled", "parameters": {"classification": 1}}]
    assert caller.post("/v2/models/affine/infer", ask(outputs=wished)).json["outputs"][0]["data"] == [
        "10.000000:1"
    ]
    path = Path("/dev/shm") / f"headrace-rest-{os.getpid()}"
    path.write_bytes(np.array([1, 2, 3], np.float32).tobytes() + bytes(12))
    try:
        region = {"key": f"/{path.name}", "offset": 0, "byte_size": 24}
        assert caller.post("/v2/systemsharedmemory/region/r/register", region).status == 200
        assert caller.get("/v2/systemsharedmemory/status").json == [{"name": "r", **region}]
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
        document = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": place}],
            "outputs": [{"name": "scaled", "parameters": {**place, "shared_memory_offset": 12}}],
        }
        (output,) = caller.post("/v2/models/affine/infer", document).json["outputs"]
        assert output["parameters"] == {**place, "shared_memory_offset": 12}
        assert np.frombuffer(path.read_bytes()[12:], np.float32).tolist() == [2, 4, 6]
        assert caller.post("/v2/systemsharedmemory/unregister").status == 200
    finally:
        path.unlink()


@pytest.mark.parametrize(("packing", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_may_be_packed(caller: Caller, packing: str, pack: Any) -> None:
    packed = pack(json.dumps(ask()).encode())
    assert caller.post("/v2/models/affine/infer", packed, Content_Encoding=packing).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("no", ask(), 404, "model 'no' is not loaded"),
        ("affine/versions/9", ask(), 404, "version '9'"),
        ("affine", b"{", 400, "the body is no JSON"),
        ("affine", b"[]", 400, "is no JSON object"),
        ("affine", {"id": "\ud800"}, 400, "surrogates not allowed"),
        ("affine", b"[" * 50_000, 400, "the body is no JSON"),
        ("affine", {}, 400, "input 'x' is missing"),
        ("affine", {"inputs": {}}, 400, "field 'inputs' is {}; it must be a list"),
        ("affine", {"inputs": [1]}, 400, "1 is no JSON object"),
        ("affine", ask(shape=[1, "3"]), 400, "sizes are whole numbers"),
        ("affine", ask(shape=[1, -3]), 400, "sizes are whole numbers"),
        ("affine", ask(["a", "b", "c"]), 400, "holds an element that FP32 cannot hold"),
        ("affine", ask([1, 2]), 400, "2 elements, but shape [1, 3] has 3"),
        ("affine", ask(datatype="FP31"), 400, "datatype 'FP31' is none of"),
        ("fp16", ask([1], datatype="FP16", shape=[1, 1]), 400, "FP16 has no typed contents"),
        ("int8", ask([300], datatype="INT8", shape=[1, 1]), 400, "INT8 cannot hold"),
        ("bytes", ask([1], datatype="BYTES", shape=[1, 1]), 400, "BYTES cannot hold"),
        ("affine", ask(parameters={"timeout": [1]}), 400, "parameter 'timeout' is neither"),
        ("affine", ask(parameters={"timeout": 1 << 70}), 400, "which is too large"),
        ("affine", ask(outputs=[{"name": "no"}]), 400, "no output 'no'"),
        ("affine", b" " * (MAX_BODY + 1), 400, "more than the 100000 bytes allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_a_status_and_why(
    caller: Caller, path: str, body: Any, status: int, message: str
) -> None:
    answer = caller.post(f"/v2/models/{path}/infer", body)
    assert (answer.status, message in answer.json["error"]) == (status, True), answer.body


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Inference_Header_Content_Length": "x"}, "must be a number"),
        ({"Inference_Header_Content_Length": "9999"}, "but the body has"),
        ({"Inference_Header_Content_Length": "9" * 5000}, "must be a number"),
        ({"Content_Encoding": "br"}, "known are gzip and deflate"),
        ({"Content_Encoding": "gzip"}, "the body is not gzip"),
    ],
)
def test_a_header_that_lies_is_refused(caller: Caller, headers: dict[str, str], message: str) -> None:
    answer = caller.post("/v2/models/affine/infer", ask(), **headers)
    assert (answer.status, message in answer.json["error"]) == (400, True), answer.body


def test_a_small_body_that_unpacks_to_much_is_refused(caller: Caller) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < MAX_BODY
    answer = caller.post("/v2/models/affine/infer", bomb, Content_Encoding="gzip")
    assert "bytes allowed" in answer.json["error"]


def test_models_are_listed_loaded_and_unloaded(server: InferenceServer, caller: Caller) -> None:
    server.publish("fresh", onnx_models.affine())
    assert caller.post("/v2/repository/models/fresh/load").status == 200
    assert caller.post("/v2/models/fresh/infer", ask()).status == 200
    index = caller.post("/v2/repository/index", {"ready": True}).json
    assert {"name": "fresh", "version": "1", "state": "READY", "reason": ""} in index
    assert caller.get("/v2/models/fresh/stats").json["model_stats"][0]["inference_count"] == 1
    assert caller.post("/v2/repository/models/fresh/unload").status == 200
    assert caller.get("/v2/models/fresh/ready").status == 400
    assert caller.post("/v2/repository/models/no/load").status == 404
    assert caller.post("/v2/repository/models/no/load", {"parameters": [1]}).status == 400


def test_settings_are_told_and_changed(caller: Caller) -> None:
    assert caller.get("/v2/trace/setting").json["trace_level"] == "OFF"
    changed = caller.post("/v2/models/affine/trace/setting", {"trace_rate": "5"}).json
    assert changed["trace_rate"] == "5"
    assert caller.post("/v2/models/affine/trace/setting", {"trace_rate": None}).json["trace_rate"] == "1000"
    assert caller.get("/v2/logging").json["log_error"] is True


def test_pages_of_the_web_are_not_answered(caller: Caller) -> None:
    """A browser on this machine would else act for whoever wrote the page it shows."""
    refused = caller.post("/v2/models/affine/infer", ask(), Origin="http://example.com")
    assert refused.status == 403
    assert caller.get("/v2", Host="rebound.example.com").status == 400
    assert caller.get("/v2", Host="localhost").status == 200


def test_who_may_do_what_is_as_over_grpc(tmp_path: Path) -> None:
    viewer = Principal("ann", "default", frozenset({Role.VIEWER}))
    with (
        serve_inference(tmp_path, authenticate=lambda _: viewer) as served,
        serve_http(
            "127.0.0.1:0", grpc_address=served.address, max_connections=4, max_body_bytes=100
        ) as address,
    ):
        assert Caller(address).post("/v2/repository/models/x/load").status == 403


def test_a_project_is_named_in_a_header(caller: Caller) -> None:
    answer = caller.get("/v2/models/affine", headrace_project="other")
    assert (answer.status, "in project 'other'" in answer.json["error"]) == (404, True)
