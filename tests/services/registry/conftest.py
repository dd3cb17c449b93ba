"""A served registry, over SQLite or over a PostgreSQL that runs for the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.registry.client import RegistryClient
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
def channel(tmp_path: Path) -> Iterator[ServedChannel]:
    with serve_registry(tmp_path) as channel:
        yield channel


@pytest.fixture
def client(channel: ServedChannel) -> RegistryClient:
    return RegistryClient(channel)
