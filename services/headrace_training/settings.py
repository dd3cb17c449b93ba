"""What the training service can be told, by environment variables `HEADRACE_TRAINING_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from headrace.node import NodeSettings


class Settings(NodeSettings):
    """Settings of one training worker."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_TRAINING_")

    address: str = "127.0.0.1:8474"
    metrics_address: str = "127.0.0.1:9474"
    registry_address: str = "127.0.0.1:8471"
    slots: int = Field(1, ge=1, le=1024, description="Ranks it runs at a time, each in a process of its own.")
    data_dir: Path = Field(
        Path("data/training"), description="Folder of the running ranks' files and of their logs."
    )
    allowed_programs: list[str] = Field(
        ["headrace_examples"],
        description="Modules and packages whose programs may run, separated by commas; a package stands for all below it.",
    )
    allow_archives: bool = Field(
        False,
        description="Whether programs uploaded as source archives may run: anyone's code, as this user.",
    )
    step_timeout_s: float = Field(
        600,
        gt=0,
        le=86400,
        description="Longest wait for a step: for the slowest rank, its evaluation or checkpoint included.",
    )
