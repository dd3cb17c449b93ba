"""Settings of the optimization service."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace.tasks.settings import TaskNodeSettings


class Settings(TaskNodeSettings):
    """What the optimization service can be told."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_OPTIMIZATION_")

    address: str = "127.0.0.1:8475"
    metrics_address: str = "127.0.0.1:9475"
    registry_address: str = Field(
        "127.0.0.1:8471",
        min_length=1,
        description="host:port of the registry that versions come from and go to.",
    )
    slots: int = Field(
        1, ge=1, le=1024, description="Pipelines it runs at a time, each in a process of its own."
    )
    data_dir: Path = Path("data/optimization")
    threads: int = Field(
        1, ge=1, le=256, description="Threads a pipeline computes with; latencies are measured with as many."
    )
