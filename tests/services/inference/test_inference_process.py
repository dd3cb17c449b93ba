"""Inference as a process of its own: `python -m headrace_inference`."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import helper

from headrace.errors import FailedPrecondition
from headrace.inference.client import InferenceClient
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, File, Version
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace.testing import free_port, serve, until
from headrace.testing.reflection import ReflectionClient
from headrace.testing.server import ServedChannel
from tests.services.inference.inference_server import WAIT_S
from tests.services.parameters.parameter_process import service_process
from tests.services.registry.registry_server import serve_registry
from tests.unit.inference import onnx_models

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ServedChannel]:
    with serve_registry(tmp_path) as channel:
        yield channel


def publish(registry: ServedChannel, model: str, data: bytes) -> str:
    client = RegistryClient(registry)
    file = File(path="model.onnx", artifact=client.upload_bytes("default", data), role=FILE_ROLE_ONNX)
    version = Version(files=[file], serving_file="model.onnx")
    return client.create_version(f"projects/default/models/{model}", version).name


class PlayedScheduler(nodes_pb2_grpc.NodesServicer):
    """Takes in what the node says."""

    def __init__(self) -> None:
        self.hellos: queue.Queue[nodes_pb2.Hello] = queue.Queue()
        self.reports: queue.Queue[nodes_pb2.Report] = queue.Queue()

    def Attach(
        self, request_iterator: Iterator[nodes_pb2.AttachRequest], context: grpc.ServicerContext
    ) -> Iterator[nodes_pb2.AttachResponse]:
        self.hellos.put(next(request_iterator).hello)
        welcome = nodes_pb2.AttachResponse()
        welcome.welcome.lease.FromSeconds(60)
        yield welcome
        for request in request_iterator:
            self.reports.put(request.report)
            yield nodes_pb2.AttachResponse(notice=nodes_pb2.Notice())

    def report(self) -> nodes_pb2.Report:
        return self.reports.get(timeout=WAIT_S)


def test_a_node_tells_its_scheduler_which_models_it_serves(registry: ServedChannel) -> None:
    scheduler = PlayedScheduler()
    version = publish(registry, "digits", onnx_models.affine(2))
    broken = publish(registry, "broken", b"this is no model")
    with (
        serve(lambda server: nodes_pb2_grpc.add_NodesServicer_to_server(scheduler, server)) as channel,
        service_process(
            "inference", REGISTRY_ADDRESS=registry.address, SCHEDULER_ADDRESS=channel.address, NODE_ID="i-0"
        ) as (address, process),
        InferenceClient(address) as client,
    ):
        hello = scheduler.hellos.get(timeout=WAIT_S)
        assert (hello.node, hello.kind, hello.address) == (
            "nodes/i-0",
            nodes_pb2.NODE_KIND_INFERENCE,
            address,
        )
        client.load("digits")
        with pytest.raises(FailedPrecondition):
            client.load("broken")
        while len((report := scheduler.report()).models) < 2 or not report.models[0].error:
            pass
        failed, served = report.models
        assert (failed.model, failed.version, failed.ready) == ("broken", broken, False)
        assert "onnxruntime cannot load the model" in failed.error
        assert served == nodes_pb2.ServedModel(
            project="default", model="digits", version=version, file="model.onnx", ready=True
        )
        process.send_signal(signal.SIGTERM)
        while not scheduler.report().leaving:
            pass
        assert process.wait(WAIT_S) == 0


def test_a_person_with_reflection_alone_can_infer(registry: ServedChannel) -> None:
    publish(registry, "digits", onnx_models.affine(2))
    with (
        service_process("inference", REGISTRY_ADDRESS=registry.address) as (address, _),
        ReflectionClient(address) as person,
    ):
        assert SERVICE in person.services()
        assert "grpc.health.v1.Health" in person.services()
        person.call(f"{SERVICE}/RepositoryModelLoad", {"model_name": "digits"})
        (answer,) = person.call(
            f"{SERVICE}/ModelInfer",
            {
                "model_name": "digits",
                "inputs": [
                    {
                        "name": "x",
                        "datatype": "FP32",
                        "shape": [1, 3],
                        "contents": {"fp32_contents": [1, 2, 3]},
                    }
                ],
                "outputs": [{"name": "scaled"}],
            },
        )
        assert answer["outputs"][0]["contents"] == {"fp32_contents": [2, 4, 6]}


def test_a_port_of_http_that_is_taken_is_one_line_that_names_the_setting() -> None:
    with serve() as taken:
        ended = subprocess.run(
            [sys.executable, "-m", "headrace_inference"],
            env={
                **os.environ,
                "HEADRACE_INFERENCE_ADDRESS": "127.0.0.1:0",
                "HEADRACE_INFERENCE_METRICS_ADDRESS": "",
                "HEADRACE_INFERENCE_REGISTRY_ADDRESS": "",
                "HEADRACE_INFERENCE_HTTP_ADDRESS": taken.address,
                "HEADRACE_INFERENCE_LOG_FORMAT": "json",
            },
            capture_output=True,
            check=False,
            text=True,
            timeout=WAIT_S,
        )
    assert ended.returncode == 1
    (line,) = [line for line in map(json.loads, ended.stderr.splitlines()) if line["level"] == "error"]
    assert (line["event"], line["variable"]) == ("setting_unusable", "HEADRACE_INFERENCE_HTTP_ADDRESS")


def slow() -> bytes:
    """Make y = x @ w @ w ... as often as `times` says."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "w"], ["after"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            onnx_models.tensor("number", "INT64", ()),
            onnx_models.tensor("go", "BOOL", ()),
            onnx_models.tensor("before", "FP32", (256, 256)),
        ],
        [onnx_models.tensor("go_on", "BOOL", ()), onnx_models.tensor("after", "FP32", (256, 256))],
    )
    return onnx_models.model(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)],
        [onnx_models.tensor("times", "INT64", ()), onnx_models.tensor("x", "FP32", (256, 256))],
        [onnx_models.tensor("y", "FP32", (256, 256))],
        w=np.eye(256, dtype=np.float32),
    )


def test_at_sigterm_the_running_request_is_answered(registry: ServedChannel) -> None:
    publish(registry, "slow", slow())
    metrics = f"127.0.0.1:{free_port()}"
    with (
        service_process(
            "inference", REGISTRY_ADDRESS=registry.address, METRICS_ADDRESS=metrics, THREADS="1"
        ) as (address, process),
        InferenceClient(address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.load("slow")
        answer = pool.submit(client.infer, "slow", lasting(client, seconds=1))
        until(lambda: f'headrace_rpc_in_flight{{method="{SERVICE}/ModelInfer"}} 1.0' in scrape(metrics))
        process.send_signal(signal.SIGTERM)
        np.testing.assert_array_equal(answer.result(WAIT_S)["y"], np.eye(256))
        assert process.wait(WAIT_S) == 0


def lasting(client: InferenceClient, *, seconds: float) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs for `slow` that keep one core of this machine busy for about so long."""
    x, probe = np.eye(256, dtype=np.float32), 200
    began = time.perf_counter()
    client.infer("slow", {"times": np.array(probe), "x": x})
    return {"times": np.array(int(probe * seconds / (time.perf_counter() - began))), "x": x}


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as page:
        return str(page.read().decode())


def test_without_a_registry_nothing_is_loaded_and_the_reason_is_told() -> None:
    with (
        service_process("inference", REGISTRY_ADDRESS="") as (address, _),
        InferenceClient(address) as client,
        pytest.raises(FailedPrecondition, match="start it with HEADRACE_INFERENCE_REGISTRY_ADDRESS"),
    ):
        client.load("digits")


def test_a_provider_that_is_not_there_ends_the_process_with_one_line() -> None:
    with pytest.raises(AssertionError, match="no provider 'NoSuchProvider' here"):
        service_process("inference", PROVIDERS="NoSuchProvider,CPUExecutionProvider").__enter__()


def test_the_process_starts_without_torch() -> None:
    statement = "import sys, headrace_inference.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", statement], timeout=60, check=False).returncode == 0
