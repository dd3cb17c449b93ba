"""Models are loaded from the registry, switched and unloaded while requests come."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from headrace.inference.client import InferenceClient, ModelState
from headrace.inference.oip.v2 import repository_pb2 as pb
from headrace.testing import until
from headrace_inference.core.config import ModelConfig
from headrace_inference.decoupled import DecoupledRunner
from headrace_inference.runners.runner import ModelFile, Runner
from tests.services.inference import inference_server
from tests.services.inference.inference_server import WAIT_S, Gate, InferenceServer, serve_inference
from tests.unit.inference import onnx_models

X = np.ones((1, 3), np.float32)


def factor(client: InferenceClient, model: str = "digits") -> float:
    """Tell which of the test's models answers: they differ in a factor."""
    return float(client.infer(model, {"x": X}, outputs=["scaled"])["scaled"][0, 0])


def test_without_a_version_the_newest_of_that_name_is_loaded(
    server: InferenceServer, client: InferenceClient
) -> None:
    server.publish("digits", onnx_models.affine(2))
    server.publish("digits", onnx_models.affine(3))
    client.load("digits")
    assert factor(client) == 3
    assert client.index() == [ModelState("digits", "2", "READY", "")]


def test_a_version_is_loaded_by_number_or_alias_under_any_name(
    server: InferenceServer, client: InferenceClient
) -> None:
    first = server.publish("digits", onnx_models.affine(2))
    server.publish("digits", onnx_models.affine(3))
    server.registry.set_alias("projects/default/models/digits", "stable", first)
    client.load("by-number", version=first)
    client.load("by-alias", version="projects/default/models/digits@stable")
    client.load("by-model", version="projects/default/models/digits")
    assert [factor(client, name) for name in ("by-number", "by-alias", "by-model")] == [2, 2, 3]


def test_a_file_of_the_version_can_be_named(server: InferenceServer, client: InferenceClient) -> None:
    server.publish("digits", onnx_models.affine(2), onnx_models.affine(3))
    client.load("digits", file="1.onnx")
    assert factor(client) == 3
    assert client.metadata("digits").properties["file"] == "1.onnx"


def test_two_projects_may_use_the_same_name(server: InferenceServer, client: InferenceClient) -> None:
    server.publish("digits", onnx_models.affine(2))
    server.publish("digits", onnx_models.affine(3), project="other")
    client.load("digits")
    with server.client(project="other") as stranger:
        stranger.load("digits")
        assert (factor(client), factor(stranger)) == (2, 3)
        stranger.unload("digits")
    assert factor(client) == 2


def test_what_the_registry_does_not_have_is_not_found(
    server: InferenceServer, client: InferenceClient
) -> None:
    version = server.publish("digits", onnx_models.affine())
    with pytest.raises(NotFound, match="projects/default/models/no"):
        client.load("no")
    with pytest.raises(NotFound, match=r"has no file '7\.onnx'; it has 0\.onnx, report\.json"):
        client.load("digits", file="7.onnx")
    with pytest.raises(NotFound):
        client.load("digits", version=version.replace("versions/1", "versions/9"))
    assert client.index() == []


def test_what_cannot_be_served_is_refused(server: InferenceServer, client: InferenceClient) -> None:
    server.publish("digits", onnx_models.affine(), serve_first=False)
    with pytest.raises(FailedPrecondition, match="has no file to serve; optimize it first, or name one"):
        client.load("digits")
    with pytest.raises(FailedPrecondition, match=r"'report\.json' of .* cannot be served"):
        client.load("digits", file="report.json")


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("Digits!", {}, "model_name 'Digits!' is not an id"),
        ("", {}, "model_name '' is not an id"),
        ("digits", {"version": pb.ModelRepositoryParameter(string_param="7")}, "'7' is not of the form"),
        ("digits", {"version": pb.ModelRepositoryParameter(int64_param=7)}, "'version' must be a string_param"),
        ("digits", {"label": pb.ModelRepositoryParameter(string_param="{}")}, "'label' is not known; known are"),
    ],
)  # fmt: skip
def test_a_load_that_makes_no_sense_is_refused(
    server: InferenceServer, model: str, parameters: dict[str, pb.ModelRepositoryParameter], message: str
) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=model, parameters=parameters)
    with pytest.raises(InvalidArgument) as raised:
        server.stub.RepositoryModelLoad(request)
    assert message in raised.value.message


def test_a_model_that_does_not_load_is_unavailable_and_says_why(
    server: InferenceServer, client: InferenceClient
) -> None:
    server.publish("digits", b"this is no model")
    with pytest.raises(FailedPrecondition, match="onnxruntime cannot load the model"):
        client.load("digits")
    (state,) = client.index()
    assert (state.state, state.version) == ("UNAVAILABLE", "1")
    assert "onnxruntime cannot load the model" in state.reason
    assert client.index(ready=True) == []
    with pytest.raises(NotFound, match="the last try ended with: onnxruntime cannot load"):
        client.infer("digits", {"x": X})


def test_a_version_that_does_not_load_leaves_the_old_one_serving(
    server: InferenceServer, client: InferenceClient
) -> None:
    first = server.publish("digits", onnx_models.affine(2))
    client.load("digits")
    server.publish("digits", b"this is no model")
    with pytest.raises(FailedPrecondition):
        client.load("digits")
    assert factor(client) == 2
    assert [(one.version, one.state) for one in client.index()] == [("1", "READY"), ("2", "UNAVAILABLE")]
    client.load("digits", version=first)
    assert [(one.version, one.state) for one in client.index()] == [("1", "READY")]


def test_a_server_takes_only_so_many_models(tmp_path: Path) -> None:
    with serve_inference(tmp_path, slots=1) as server, server.client() as client:
        server.publish("digits", onnx_models.affine(2))
        server.publish("text", onnx_models.affine(3))
        client.load("digits")
        with pytest.raises(ResourceExhausted, match="the server has 1 models already; unload one"):
            client.load("text")
        client.unload("digits")
        client.load("text")
        assert factor(client, "text") == 3


def test_an_unloaded_model_is_gone(server: InferenceServer, client: InferenceClient) -> None:
    server.publish("digits", onnx_models.affine())
    client.load("digits")
    factor(client)
    assert b"headrace_inference_requests" in _scrape(server)
    client.unload("digits")
    assert client.index() == []
    assert not client.model_ready("digits")
    with pytest.raises(NotFound):
        client.infer("digits", {"x": X})
    with pytest.raises(NotFound):
        client.unload("digits")
    assert b'model="digits"' not in _scrape(server)


def _scrape(server: InferenceServer) -> bytes:
    return generate_latest(server.metrics)


class Counting:
    """Counts how many sessions were opened, and how many at most at the same time."""

    def __init__(self) -> None:
        self.opened = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def open_runner(self, file: ModelFile, config: ModelConfig) -> Runner | DecoupledRunner:
        with self._lock:
            self.opened += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return inference_server.open_runner(file, config)
        finally:
            with self._lock:
                self._now -= 1


def test_what_is_served_already_is_not_loaded_again(tmp_path: Path) -> None:
    counting = Counting()
    with serve_inference(tmp_path, open_runner=counting.open_runner) as server, server.client() as client:
        server.publish("digits", onnx_models.affine())
        client.load("digits")
        client.load("digits")
    assert counting.opened == 1


def test_loads_of_one_name_come_one_after_the_other(tmp_path: Path) -> None:
    counting = Counting()
    with serve_inference(tmp_path, open_runner=counting.open_runner) as server, server.client() as client:
        versions = [server.publish("digits", onnx_models.affine(number)) for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda version: client.load("digits", version=version), versions))
        assert client.index(ready=True) == client.index()
    assert (counting.opened, counting.most_at_once) == (4, 1)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(tmp_path: Path, gate: Gate) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path, open_runner=gate.open_runner) as served:
        yield served


def test_unloading_waits_for_the_requests_inside(gated: InferenceServer, gate: Gate) -> None:
    gated.publish("digits", onnx_models.affine(2))
    with gated.client() as client, ThreadPoolExecutor(2) as pool:
        client.load("digits")
        gate.close()
        answer = pool.submit(factor, client)
        gate.wait_for_a_run()
        unloaded = pool.submit(client.unload, "digits")
        until(lambda: client.index()[0].state == "UNLOADING")
        assert not unloaded.done()
        gate.let_through()
        assert answer.result(WAIT_S) == 2
        unloaded.result(WAIT_S)


def test_switching_versions_under_load_fails_no_request(
    server: InferenceServer, client: InferenceClient
) -> None:
    """Eight callers never pause while versions are switched twenty times; one more asks for what is there in between."""
    versions = [server.publish("digits", onnx_models.affine(number)) for number in (2, 3)]
    client.load("digits", version=versions[0])
    finished = threading.Event()

    def call() -> list[float]:
        seen = []
        while not finished.is_set():
            seen.append(factor(client))
        return seen

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(call) for _ in range(8)]
        for turn in range(1, 21):
            client.load("digits", version=versions[turn % 2])
            assert factor(client) == 2 + turn % 2
        finished.set()
        seen = [value for caller in callers for value in caller.result(WAIT_S)]
    assert set(seen) == {2, 3}


def test_a_model_is_loaded_and_unloaded_by_kserves_numbers_too(server: InferenceServer) -> None:
    """KServe's stubs have the model's name in the first field, and read an answer that Triton's do not have."""
    server.publish("digits", onnx_models.affine())
    loaded = server.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name="digits"))
    assert (loaded.model_name, loaded.is_loaded) == ("digits", True)
    unloaded = server.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="digits"))
    assert (unloaded.model_name, unloaded.is_unloaded) == ("digits", True)
