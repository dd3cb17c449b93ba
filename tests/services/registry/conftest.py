"""A served registry, over SQLite or over a PostgreSQL that runs for the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.registry.client import RegistryClient
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.models_pb2_grpc import ModelsStub
from headrace.testing.server import ServedChannel
from tests.services.registry.registry_server import serve_registry
from tests.services.registry.temporary_postgres import TemporaryPostgres, temporary_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[TemporaryPostgres]:
    try:
        with temporary_postgres() as server:
            yield server
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the test's file asks for `EVERY_DATABASE`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    server: TemporaryPostgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def channel(tmp_path: Path, database_url: str) -> Iterator[ServedChannel]:
    with serve_registry(tmp_path, database_url) as channel:
        yield channel


@pytest.fixture
def client(channel: ServedChannel) -> RegistryClient:
    return RegistryClient(channel)


@pytest.fixture
def models(channel: ServedChannel) -> ModelsStub:
    return ModelsStub(channel)


@pytest.fixture
def onnx(client: RegistryClient) -> pb.Version:
    """A version that can be created."""
    artifact = client.upload_bytes("default", b"a model")
    file = pb.File(path="model.onnx", artifact=artifact, role=pb.FILE_ROLE_ONNX)
    return pb.Version(files=[file], serving_file="model.onnx")
