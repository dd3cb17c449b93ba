"""What the parameter service can be told, by environment variables `HEADRACE_PARAMETERS_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace.node import NodeSettings

GIB = 1 << 30
_ORPHANS = "Hours after which recovered stores that nobody has asked for, and files that cannot be trusted, are removed."


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
        10_000, ge=1, description="Pushes a store's log grows by before a snapshot takes its place."
    )
    orphan_hours: float = Field(24.0, gt=0, le=8760, description=_ORPHANS)
