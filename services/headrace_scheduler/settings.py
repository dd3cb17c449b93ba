"""What the scheduler can be told, by `HEADRACE_SCHEDULER_*`."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from headrace.config import ServiceSettings
from headrace.rpc.addresses import split_address
from headrace_scheduler.core.replicas import PATIENCE_S

OTHER_CALLS = 32  # left for callers who neither watch nor are nodes


class Settings(ServiceSettings):
    """Settings of the scheduler."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_SCHEDULER_")

    address: str = "127.0.0.1:8470"
    metrics_address: str = "127.0.0.1:9470"
    # Every node and every watcher holds a call open; each open call is a thread.
    max_concurrent_rpcs: int = Field(
        256, ge=OTHER_CALLS + 2, le=4096, description="Calls served at a time, open streams included."
    )
    max_nodes: int = Field(128, ge=1, le=4096, description="Nodes that can be attached at a time.")
    max_watches: int = Field(64, ge=1, le=4096, description="WatchJob and WatchDeployment calls at a time.")
    registry_address: str = Field(
        "127.0.0.1:8471",
        description='host:port of the registry; "" works without one: no deployments, no aliases.',
    )
    data_dir: Path = Field(
        Path("data/scheduler"), description="Folder of the database; made if it is missing."
    )
    database: str = Field(
        "",
        description="sqlite:////path/scheduler.db or postgresql+psycopg://user:password@host/name; "
        '"" means scheduler.db in the data folder.',
    )
    lease_s: float = Field(
        5.0, ge=0.5, le=600, description="Seconds of silence after which a node counts as lost."
    )
    replica_patience_s: float = Field(
        PATIENCE_S,
        ge=2,
        le=600,
        description="Seconds a replica may confirm nothing to its primary before it is given up, though both are attached: "
        "more than one record takes between them, and well below HEADRACE_TRAINING_STEP_TIMEOUT_S.",
    )

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'scheduler.db'}"

    @field_validator("registry_address")
    @classmethod
    def _is_reachable(cls, text: str) -> str:
        if text and split_address(text)[1] == 0:
            raise ValueError("port 0 cannot be called; name the port it serves on")
        return text

    @model_validator(mode="after")
    def _calls_add_up(self) -> Self:
        needed = self.max_nodes + self.max_watches + OTHER_CALLS
        if self.max_concurrent_rpcs < needed:
            raise ValueError(
                f"max_concurrent_rpcs {self.max_concurrent_rpcs} is too small for max_nodes {self.max_nodes} and "
                f"max_watches {self.max_watches}; it must be at least {needed}"
            )
        return self
