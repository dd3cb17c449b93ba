"""What the parameter service can be told, by environment variables `HEADRACE_PARAMETERS_*`."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import SettingsConfigDict

from headrace.node import NodeSettings
from headrace_parameters.core.quota import ProjectQuota

GIB = 1 << 30
_ORPHANS = "Hours after which recovered stores that nobody has asked for, and files that cannot be trusted, are removed."


class Quota(BaseModel):
    """Bounds of one project in one process; 0: none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(0, ge=0)
    calls_per_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    bytes_per_s: float = Field(0.0, ge=0, allow_inf_nan=False)

    def bounds(self) -> ProjectQuota:
        """Return them."""
        return ProjectQuota(self.max_bytes, self.calls_per_s, self.bytes_per_s)


class Settings(NodeSettings):
    """Settings of one process of the parameter service."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_PARAMETERS_")

    address: str = "127.0.0.1:8473"
    metrics_address: str = "127.0.0.1:9473"
    slots: int = Field(16, ge=1, le=1024, description="Stores it holds at a time, one shard of each.")
    max_concurrent_rpcs: int = Field(
        256,
        ge=1,
        le=4096,
        description="Calls served at a time; every worker that waits for the others of its step is one.",
    )
    max_bytes: int = Field(
        8 * GIB,
        ge=1,
        description="Memory for values and optimizer state of all stores, in bytes; a store has its values "
        "once more, and one gradient per worker, on top.",
    )
    shared_memory: bool = Field(
        True,
        description="Whether workers of this machine, of the same user and container, may exchange values through memory.",
    )
    allowed_updates: list[str] = Field(
        [],
        description="Modules and packages whose optimizers may run here, in this very process, separated by commas.",
    )
    threads: int = Field(
        1,
        ge=1,
        le=256,
        description="Threads that compute one update; an update is bound by memory, and shards share a machine.",
    )
    data_dir: Path = Field(
        Path("data/parameters"),
        description="Folder of the durable stores, this process's alone; made when the first one is.",
    )
    snapshot_log_bytes: int = Field(
        GIB // 4,
        ge=1,
        description="Bytes a store's log grows by before a snapshot takes its place, but at least the snapshot's own size; a recovery "
        "replays at most about as many.",
    )
    snapshot_log_pushes: int = Field(
        10_000,
        ge=1,
        description="Records, of pushes mostly, that a store's log grows by before a snapshot takes its place.",
    )
    orphan_hours: float = Field(24.0, gt=0, le=8760, description=_ORPHANS)
    project_max_bytes: int = Field(
        0, ge=0, description="Of max_bytes, what the stores of one project may take; 0: all."
    )
    project_calls_per_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Pushes and pulls per second of one project; a burst may have those of one second; 0: any.",
    )
    project_bytes_per_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Bytes of gradients and values per second of one project, both ways; 0: any.",
    )
    project_quotas: dict[str, Quota] = Field(
        {},
        description="Other bounds for some projects, each in place of the three above, as JSON: "
        '{"team-a": {"max_bytes": 1000000000, "calls_per_s": 100, "bytes_per_s": 0}}.',
    )

    @field_validator("project_quotas", mode="before")
    @classmethod
    def _from_json(cls, quotas: object) -> object:
        try:
            return json.loads(quotas) if isinstance(quotas, str) else quotas
        except ValueError:
            raise ValueError("is no JSON; write one object of projects and their bounds") from None

    def quotas(self) -> tuple[ProjectQuota, dict[str, ProjectQuota]]:
        """Return the bounds of every project, and those of some."""
        default = ProjectQuota(self.project_max_bytes, self.project_calls_per_s, self.project_bytes_per_s)
        return default, {project: quota.bounds() for project, quota in self.project_quotas.items()}
