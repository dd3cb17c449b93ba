"""What the rpc TraceSetting has traced, through a real server."""

import json
from pathlib import Path

import numpy as np
import pytest

from headrace.inference.oip.v2 import settings_pb2
from headrace.telemetry.traces import setup_traces
from tests.services.inference.inference_server import InferenceServer
from tests.unit.inference import onnx_models

ROW = np.ones((1, 3), np.float32)


@pytest.mark.parametrize("front_end", ["grpcio", "turbo"])
def test_a_traced_request_leaves_its_stages_in_the_span_of_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, front_end: str
) -> None:
    monkeypatch.setenv("HEADRACE_TEST_FRONT_END", front_end)
    server: InferenceServer = request.getfixturevalue("server")
    server.publish("affine", onnx_models.affine())
    change = settings_pb2.TraceSettingRequest()
    change.settings["trace_level"].value.append("TIMESTAMPS")
    change.settings["trace_rate"].value.append("2")
    server.stub.TraceSetting(change)
    close = setup_traces("probe", f"file:{tmp_path}/spans.jsonl")
    with server.client() as client:
        client.load("affine")
        for _ in range(4):
            client.infer("affine", {"x": ROW})
    close()
    spans = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    served = [span for span in spans if "ModelInfer" in span["name"] and span["kind"] == "SpanKind.SERVER"]
    stages = ["REQUEST_START", "QUEUE_START", "COMPUTE_END", "REQUEST_END"]
    events = [[event["name"] for event in span["events"]] for span in served]
    assert sorted(events) == [[], [], stages, stages]
