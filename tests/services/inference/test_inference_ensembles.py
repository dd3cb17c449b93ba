"""Models as a graph: each step through its own model's queue."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.inference.client import InferenceClient
from headrace.inference.oip.v2 import model_config_pb2, statistics_pb2
from headrace.registry.v1.models_pb2 import FILE_ROLE_MODEL_CONFIG, File, Version
from tests.services.inference.inference_server import InferenceServer
from tests.unit.inference import onnx_models

X = np.ones((2, 3), np.float32)
# out = 3 (2 x) and shifted = x + 1: two steps in a row, and an output of the first for callers.
STEPS: list[dict[str, Any]] = [
    {"model_name": "triple", "model_version": -1, "input_map": {"x": "doubled"}, "output_map": {"scaled": "out"}},
    {"model_name": "double", "input_map": {"x": "in"}, "output_map": {"scaled": "doubled", "shifted": "shifted"}},
]  # fmt: skip


def publish_ensemble(server: InferenceServer, steps: list[dict[str, Any]]) -> None:
    config = {
        "platform": "ensemble",
        "max_batch_size": 8,
        "input": [{"name": "in", "data_type": "TYPE_FP32", "dims": [3]}],
        "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [3]} for name in ("out", "shifted")],
        "ensemble_scheduling": {"step": steps},
    }
    artifact = server.registry.upload_bytes("default", json.dumps(config).encode())
    file = File(path="graph.json", role=FILE_ROLE_MODEL_CONFIG, artifact=artifact)
    version = Version(files=[file], serving_file=file.path)
    server.registry.create_version("projects/default/models/graph", version)


@pytest.fixture
def members(server: InferenceServer, client: InferenceClient) -> InferenceServer:
    for name, factor in (("double", 2), ("triple", 3)):
        server.publish(name, onnx_models.affine(factor))
        client.load(name)
    return server


def test_the_steps_run_one_after_the_other(members: InferenceServer, client: InferenceClient) -> None:
    publish_ensemble(members, STEPS)
    client.load("graph")
    outputs = client.infer("graph", {"in": X})
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "out": (6 * X).tolist(),
        "shifted": (X + 1).tolist(),
    }


def test_many_callers_get_each_their_own(members: InferenceServer, client: InferenceClient) -> None:
    publish_ensemble(members, STEPS)
    client.load("graph")
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda n: client.infer("graph", {"in": X * n}, outputs=["out"]), range(64))
        sums = [answer["out"].sum() for answer in answers]
    assert sums == [6 * n * X.sum() for n in range(64)]
    request = statistics_pb2.ModelStatisticsRequest(name="double")
    (counted,) = members.stub.ModelStatistics(request).model_stats
    assert counted.inference_count >= 64  # with those that warmed the ensemble up


def test_a_member_may_be_switched_while_the_ensemble_serves(
    members: InferenceServer, client: InferenceClient
) -> None:
    publish_ensemble(members, STEPS)
    client.load("graph")
    members.publish("double", onnx_models.affine(10))
    client.load("double")
    assert client.infer("graph", {"in": X}, outputs=["out"])["out"].tolist() == (30 * X).tolist()


def test_without_a_member_it_is_not_loaded(members: InferenceServer, client: InferenceClient) -> None:
    client.unload("double")
    publish_ensemble(members, STEPS)
    with pytest.raises(FailedPrecondition, match="is missing, load it first: model 'double' is not loaded"):
        client.load("graph")


def test_an_ensemble_that_would_run_itself_is_not_loaded(
    members: InferenceServer, client: InferenceClient
) -> None:
    """Each run would hold a worker and wait for the next: one request, and all of them are gone."""
    publish_ensemble(members, STEPS)
    client.load("graph")
    itself = {"model_name": "graph", "input_map": {"in": "in"}, "output_map": {"out": "out", "shifted": "shifted"}}  # fmt: skip
    publish_ensemble(members, [itself])
    with pytest.raises(
        FailedPrecondition, match="the ensemble 'graph' would run itself, in its step 'graph'"
    ):
        client.load("graph")
    assert client.infer("graph", {"in": X}, outputs=["out"])["out"].tolist() == (6 * X).tolist()


def test_when_a_member_goes_its_callers_are_told(members: InferenceServer, client: InferenceClient) -> None:
    publish_ensemble(members, STEPS)
    client.load("graph")
    client.unload("triple")
    with pytest.raises(
        FailedPrecondition, match="in the ensemble's step 'triple': model 'triple' is not loaded"
    ):
        client.infer("graph", {"in": X})


def test_what_a_step_cannot_run_is_the_callers_mistake(
    server: InferenceServer, client: InferenceClient
) -> None:
    server.publish("rows", onnx_models.gather())
    client.load("rows")
    config = {
        "input": [{"name": "in", "data_type": "TYPE_INT64", "dims": [-1]}],
        "output": [{"name": "out", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        "ensemble_scheduling": {
            "step": [{"model_name": "rows", "input_map": {"x": "in"}, "output_map": {"y": "out"}}]
        },
    }
    artifact = server.registry.upload_bytes("default", json.dumps(config).encode())
    file = File(path="graph.json", role=FILE_ROLE_MODEL_CONFIG, artifact=artifact)
    server.registry.create_version(
        "projects/default/models/graph", Version(files=[file], serving_file=file.path)
    )
    client.load("graph")
    with pytest.raises(
        InvalidArgument, match="in the ensemble's step 'rows': the model cannot run these inputs"
    ):
        client.infer("graph", {"in": np.array([7])})


def test_its_configuration_shows_the_graph(members: InferenceServer, client: InferenceClient) -> None:
    publish_ensemble(members, STEPS)
    client.load("graph")
    config = members.stub.ModelConfig(model_config_pb2.ModelConfigRequest(name="graph")).config
    assert config.platform == "ensemble"
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["triple", "double"]
