"""A registry in this process, behind a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.artifacts import LocalArtifacts
from headrace.registry.v1.artifacts_pb2_grpc import add_ArtifactsServicer_to_server
from headrace.registry.v1.models_pb2_grpc import add_ModelsServicer_to_server
from headrace.testing import serve
from headrace.testing.server import ServedChannel
from headrace_registry.artifacts_servicer import ArtifactsServicer
from headrace_registry.core.artifacts import Artifacts
from headrace_registry.models_servicer import ModelsServicer
from headrace_registry.repository import SqlDatabase

MAX_ARTIFACT_BYTES = 64 << 20

# As a file's `pytestmark`: all its tests run on each of the two.
EVERY_DATABASE = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def serve_registry(folder: Path, database_url: str = "") -> Iterator[ServedChannel]:
    """Serve a registry whose bytes, and by default whose database, lie in `folder`."""
    database = SqlDatabase(database_url or f"sqlite:///{folder}/registry.db")
    artifacts = Artifacts(LocalArtifacts(folder / "artifacts"), database, MAX_ARTIFACT_BYTES, now)
    with serve(
        lambda server: add_ModelsServicer_to_server(ModelsServicer(database, now), server),
        lambda server: add_ArtifactsServicer_to_server(ArtifactsServicer(artifacts), server),
    ) as channel:
        yield channel
    database.close()
