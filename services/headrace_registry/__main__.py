"""The registry as a process: `python -m headrace_registry`."""

from datetime import UTC, datetime

from headrace.artifacts import LocalArtifacts
from headrace.config import load_or_exit
from headrace.database import claimed_by
from headrace.registry.v1.artifacts_pb2_grpc import add_ArtifactsServicer_to_server
from headrace.registry.v1.models_pb2_grpc import add_ModelsServicer_to_server
from headrace.rpc.process import Process
from headrace_registry.artifacts_servicer import ArtifactsServicer
from headrace_registry.core.artifacts import Artifacts
from headrace_registry.models_servicer import ModelsServicer
from headrace_registry.repository import SqlDatabase
from headrace_registry.settings import Settings


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


def main() -> None:
    """Serve until a signal comes."""
    settings = load_or_exit(Settings)
    with Process("registry", settings) as process:
        elsewhere = "choose another folder with HEADRACE_REGISTRY_DATA_DIR"
        process.holding(claimed_by("registry", settings.database_url, elsewhere))
        store = LocalArtifacts(settings.data_dir / "artifacts")
        database = SqlDatabase(settings.database_url)
        process.closing(database.close)
        artifacts = Artifacts(store, database, settings.max_artifact_bytes, now)
        process.serve(
            lambda server: add_ModelsServicer_to_server(ModelsServicer(database, now), server),
            lambda server: add_ArtifactsServicer_to_server(ArtifactsServicer(artifacts), server),
        )


if __name__ == "__main__":
    main()
