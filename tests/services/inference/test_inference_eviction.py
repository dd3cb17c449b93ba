"""Idle models make room for others, where the operator wants it, and come back when they are asked for."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import NotFound, ResourceExhausted, Unavailable
from headrace.inference.client import InferenceClient
from headrace.testing import until
from headrace_inference.core.catalog import Key
from headrace_inference.core.config import ModelConfig
from headrace_inference.decoupled import DecoupledRunner
from headrace_inference.runners.runner import ModelFile, Runner
from tests.services.inference.inference_server import (
    WAIT_S,
    Gate,
    InferenceServer,
    open_runner,
    serve_inference,
)
from tests.unit.inference import onnx_models

X = np.ones((1, 3), np.float32)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def server(tmp_path: Path, gate: Gate) -> Iterator[InferenceServer]:
    """A server for one model at a time."""
    with serve_inference(tmp_path, open_runner=gate.open_runner, slots=1, evicts=True) as served:
        for name, factor in (("double", 2), ("triple", 3)):
            served.publish(name, onnx_models.affine(factor))
        yield served


def states(client: InferenceClient) -> dict[str, str]:
    return {one.name: one.state for one in client.index()}


def answers(client: InferenceClient, model: str) -> bool:
    try:
        return bool(client.infer(model, {"x": X}, outputs=["scaled"])["scaled"].size)
    except Unavailable:
        return False


def test_an_idle_model_makes_room_and_comes_back_when_it_is_asked_for(
    server: InferenceServer, client: InferenceClient
) -> None:
    client.load("double")
    client.load("triple")
    assert states(client) == {"double": "UNAVAILABLE", "triple": "READY"}
    until(lambda: answers(client, "double"))
    assert states(client) == {"double": "READY", "triple": "UNAVAILABLE"}


def test_who_asks_for_it_is_told_to_come_again(server: InferenceServer, client: InferenceClient) -> None:
    client.load("double")
    client.load("triple")
    # Asked here and not over the wire: our clients come again by themselves.
    with pytest.raises(
        Unavailable, match="model 'double' was unloaded to make room and is being loaded again"
    ):
        server.models.find(Key("default", "double"))
    until(lambda: states(client)["double"] == "READY")


def test_a_model_in_use_is_never_evicted(
    server: InferenceServer, client: InferenceClient, gate: Gate
) -> None:
    client.load("double")
    gate.close()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.infer, "double", {"x": X})
        gate.wait_for_a_run()
        with pytest.raises(ResourceExhausted, match="has 1 models already"):
            client.load("triple")
        gate.let_through()
        assert running.result(WAIT_S)["scaled"].tolist() == [[2, 2, 2]]


def test_what_was_unloaded_for_good_does_not_come_back_because_somebody_had_asked_for_it(
    tmp_path: Path,
) -> None:
    opened = threading.Event()
    opened.set()

    def open_when_told(file: ModelFile, config: ModelConfig) -> Runner | DecoupledRunner:
        assert opened.wait(WAIT_S)
        return open_runner(file, config)

    with (
        serve_inference(tmp_path, open_runner=open_when_told, slots=1, evicts=True) as served,
        served.client() as client,
    ):
        for name in ("first", "unwished", "last", "other"):
            served.publish(name, onnx_models.affine(2))
            client.load(name)
        opened.clear()  # three models are asked for, and come one after the other
        for name in ("first", "unwished", "last"):
            with pytest.raises(Unavailable):
                served.models.find(Key("default", name))
        client.unload("unwished")
        opened.set()
        until(lambda: states(client).get("last") == "READY")
        assert "unwished" not in states(client)


def test_an_evicted_model_can_be_unloaded_for_good(server: InferenceServer, client: InferenceClient) -> None:
    client.load("double")
    client.load("triple")
    client.unload("double")
    assert states(client) == {"triple": "READY"}
    with pytest.raises(NotFound, match="model 'double' is not loaded"):
        client.infer("double", {"x": X})
