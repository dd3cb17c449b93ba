"""What the registry can be told, by `HEADRACE_REGISTRY_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace.config import ServiceSettings

GIB = 1 << 30


class Settings(ServiceSettings):
    """Settings of the registry."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_REGISTRY_")

    address: str = "127.0.0.1:8471"
    metrics_address: str = "127.0.0.1:9471"
    data_dir: Path = Field(
        Path("data/registry"),
        description="Folder of the artifacts and of the database; made if it is missing.",
    )
    database: str = Field(
        "",
        description="sqlite:////path/registry.db or postgresql+psycopg://user:password@host/name; "
        '"" means registry.db in the data folder.',
    )
    max_artifact_bytes: int = Field(
        64 * GIB, ge=1, le=1 << 50, description="Largest artifact that is taken, in bytes."
    )

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'registry.db'}"
