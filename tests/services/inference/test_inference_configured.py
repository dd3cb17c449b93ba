"""Models are served as the configuration of their version says, or as the one of the load."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from headrace.errors import FailedPrecondition, PermissionDenied, Unimplemented
from headrace.inference.client import InferenceClient
from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import inference_pb2, model_config_pb2, repository_pb2, statistics_pb2
from headrace.registry.v1.models_pb2 import (
    FILE_ROLE_LABELS,
    FILE_ROLE_MODEL_CONFIG,
    FILE_ROLE_ONNX,
    FILE_ROLE_TORCH_PROGRAM,
    File,
    FileRole,
    Version,
)
from tests.services.inference.inference_server import FUNCTIONS, WAIT_S, InferenceServer
from tests.unit.inference import onnx_models, torch_models

X = np.ones((2, 3), np.float32)
TENSORS = {
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}],
    "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [3]} for name in ("scaled", "shifted")],
}


def publish(server: InferenceServer, *files: tuple[str, "FileRole.ValueType", bytes], serve: str) -> None:
    """Make the next version of "digits"."""
    made = [
        File(path=path, role=role, artifact=server.registry.upload_bytes("default", data))
        for path, role, data in files
    ]
    server.registry.create_version("projects/default/models/digits", Version(files=made, serving_file=serve))


def published(server: InferenceServer, config: dict[str, Any]) -> None:
    publish(
        server,
        ("model.onnx", FILE_ROLE_ONNX, onnx_models.affine()),
        ("config.json", FILE_ROLE_MODEL_CONFIG, json.dumps(config).encode()),
        serve="model.onnx",
    )


def config_of(server: InferenceServer) -> model_config_pb2.ModelConfig:
    return server.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="digits")).config


def test_a_version_brings_its_configuration(server: InferenceServer, client: InferenceClient) -> None:
    published(server, {**TENSORS, "instance_group": [{"count": 2}]})
    client.load("digits")
    config = config_of(server)
    assert (config.max_batch_size, config.instance_group[0].count) == (8, 2)


def test_a_load_may_bring_another_one(server: InferenceServer, client: InferenceClient) -> None:
    published(server, TENSORS)
    client.load("digits")
    request = repository_pb2.RepositoryModelLoadRequest(model_name="digits")
    request.parameters["config"].string_param = json.dumps({"max_batch_size": 4})
    server.stub.RepositoryModelLoad(request)
    assert config_of(server).max_batch_size == 4


def test_a_model_that_is_not_as_declared_is_refused(server: InferenceServer, client: InferenceClient) -> None:
    published(server, {**TENSORS, "input": [{"name": "z", "data_type": "TYPE_FP32", "dims": [3]}]})
    with pytest.raises(FailedPrecondition, match=r"declares input 'z' FP32 .* its inputs are 'x'"):
        client.load("digits")


def test_a_sample_that_the_model_does_not_take_fails_the_load(
    server: InferenceServer, client: InferenceClient
) -> None:
    inputs = {"x": {"data_type": "TYPE_FP32", "dims": [4], "zero_data": True}}
    published(server, {"model_warmup": [{"name": "wide", "batch_size": 1, "inputs": inputs}]})
    with pytest.raises(FailedPrecondition, match="does not take its model_warmup: input 'x' has shape"):
        client.load("digits")


def test_equal_requests_are_answered_without_a_run_where_answers_are_kept(
    server: InferenceServer, client: InferenceClient
) -> None:
    published(server, {"response_cache": {"enable": True}})
    client.load("digits")
    answers = [client.infer("digits", {"x": x})["scaled"].tolist() for x in (X, X, X + 1)]
    assert answers == [(2 * x).tolist() for x in (X, X, X + 1)]
    (counted,) = server.stub.ModelStatistics(statistics_pb2.ModelStatisticsRequest(name="digits")).model_stats
    assert counted.execution_count == 2
    assert (counted.inference_stats.cache_hit.count, counted.inference_stats.cache_miss.count) == (1, 2)


def test_a_python_function_is_served(server: InferenceServer, client: InferenceClient) -> None:
    parameters = {"function": {"string_value": f"{FUNCTIONS[0]}:Affine"}, "factor": {"string_value": "5"}}
    config = {**TENSORS, "backend": "python", "parameters": parameters}
    publish(server, ("affine.json", FILE_ROLE_MODEL_CONFIG, json.dumps(config).encode()), serve="affine.json")
    client.load("digits")
    assert client.infer("digits", {"x": X}, outputs=["scaled"])["scaled"].tolist() == (5 * X).tolist()
    assert config_of(server).backend == "python"


def test_a_function_that_the_operator_does_not_allow_is_not_served(
    server: InferenceServer, client: InferenceClient
) -> None:
    config = {**TENSORS, "backend": "python", "parameters": {"function": {"string_value": "os:system"}}}
    publish(server, ("system.json", FILE_ROLE_MODEL_CONFIG, json.dumps(config).encode()), serve="system.json")
    with pytest.raises(PermissionDenied, match="functions of module 'os' may not run on this server"):
        client.load("digits")


def test_a_program_of_torch_is_served(server: InferenceServer, client: InferenceClient) -> None:
    publish(server, ("model.pt2", FILE_ROLE_TORCH_PROGRAM, torch_models.affine(3.0)), serve="model.pt2")
    client.load("digits")
    assert client.infer("digits", {"x": X}, outputs=["scaled"])["scaled"].tolist() == (3 * X).tolist()
    assert config_of(server).backend == "pytorch"


def test_two_configurations_of_a_version_are_refused(
    server: InferenceServer, client: InferenceClient
) -> None:
    publish(
        server,
        ("model.onnx", FILE_ROLE_ONNX, onnx_models.affine()),
        *((f"{number}.json", FILE_ROLE_MODEL_CONFIG, b"{}") for number in range(2)),
        serve="model.onnx",
    )
    with pytest.raises(FailedPrecondition, match=r"has the configurations 0\.json, 1\.json; keep one"):
        client.load("digits")


def with_labels(server: InferenceServer, labels: bytes, named: str = "names.txt") -> None:
    config = {
        "output": [{"name": "scaled", "data_type": "TYPE_FP32", "dims": [-1, 3], "label_filename": named}]
    }
    publish(
        server,
        ("model.onnx", FILE_ROLE_ONNX, onnx_models.affine()),
        ("config.json", FILE_ROLE_MODEL_CONFIG, json.dumps(config).encode()),
        ("names.txt", FILE_ROLE_LABELS, labels),
        serve="model.onnx",
    )


def test_classes_have_the_names_of_the_versions_file(
    server: InferenceServer, client: InferenceClient
) -> None:
    with_labels(server, "cat\nköter\n".encode())
    client.load("digits")
    request = infer_request("digits", {"x": np.array([[1, 3, 2]], np.float32)}, outputs=["scaled"])
    request.outputs[0].parameters["classification"].int64_param = 3
    answer = outputs_of(server.stub.ModelInfer(request))["scaled"]
    assert [text.decode() for text in answer[0]] == ["6.000000:1:köter", "4.000000:2", "2.000000:0:cat"]
    assert config_of(server).output[0].label_filename == "names.txt"


@pytest.mark.parametrize(
    ("labels", "named", "message"),
    [
        (b"cat", "no.txt", "has no such file of labels; it has names.txt"),
        (b"\xff", "names.txt", "is no UTF-8"),
    ],
)
def test_names_of_classes_that_are_not_there_fail_the_load(
    server: InferenceServer, client: InferenceClient, labels: bytes, named: str, message: str
) -> None:
    with_labels(server, labels, named)
    with pytest.raises(FailedPrecondition, match=message):
        client.load("digits")


def test_bytes_of_a_model_are_refused(server: InferenceServer) -> None:
    request = repository_pb2.RepositoryModelLoadRequest(model_name="digits")
    request.parameters["file:1/model.onnx"].bytes_param = onnx_models.affine()
    with pytest.raises(Unimplemented, match="make a version of them in the registry"):
        server.stub.RepositoryModelLoad(request)


def counted(server: InferenceServer, count: int) -> Iterator[inference_pb2.ModelStreamInferResponse]:
    request = infer_request("digits", {"count": np.array([count])})
    found: Iterator[inference_pb2.ModelStreamInferResponse] = server.stub.ModelStreamInfer(
        iter([request]), timeout=WAIT_S
    )
    return found


def test_a_python_function_may_give_any_number_of_answers(
    server: InferenceServer, client: InferenceClient
) -> None:
    config = {
        "backend": "python",
        "parameters": {"function": {"string_value": f"{FUNCTIONS[0]}:Counting"}},
        "model_transaction_policy": {"decoupled": True},
        "input": [{"name": "count", "data_type": "TYPE_INT64", "dims": [1]}],
        "output": [{"name": "index", "data_type": "TYPE_INT64", "dims": [1]}],
    }
    publish(server, ("count.json", FILE_ROLE_MODEL_CONFIG, json.dumps(config).encode()), serve="count.json")
    client.load("digits")
    assert config_of(server).model_transaction_policy.decoupled
    indices = [
        int(outputs_of(one.infer_response)["index"][0])
        for one in counted(server, 3)
        if one.infer_response.outputs
    ]
    assert indices == [0, 1, 2]
    errors = [one.error_message for one in counted(server, -2) if one.error_message]
    assert len(errors) == 1
    assert "the model cannot run these inputs: it counts up" in errors[0]
