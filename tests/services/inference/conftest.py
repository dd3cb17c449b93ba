"""A served inference service with a registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.inference.client import InferenceClient
from tests.services.inference.inference_server import InferenceServer, serve_inference


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InferenceServer]:
    with serve_inference(tmp_path) as served:
        yield served


@pytest.fixture
def client(server: InferenceServer) -> Iterator[InferenceClient]:
    with server.client() as client:
        yield client
