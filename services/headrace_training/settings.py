"""What the training service can be told, by environment variables `HEADRACE_TRAINING_*`."""

import socket
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from headrace.node.settings import reachable
from headrace.rpc.addresses import split_address
from headrace.tasks.settings import TaskNodeSettings
from headrace_training import mlflow_tracker, tensorboard


class Settings(TaskNodeSettings):
    """Settings of one training worker."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_TRAINING_")

    address: str = "127.0.0.1:8474"
    metrics_address: str = "127.0.0.1:9474"
    registry_address: str = "127.0.0.1:8471"
    slots: int = Field(1, ge=1, le=1024, description="Ranks it runs at a time, each in a process of its own.")
    data_dir: Path = Path("data/training")
    step_timeout_s: float = Field(
        600,
        gt=0,
        le=86400,
        description="Longest wait for a step: for the slowest rank, its evaluation or checkpoint included.",
    )
    collective_host: str = Field(
        "",
        description="Name or address of this machine that ranks of all-reduce runs on other nodes reach; "
        '"" means the host of the advertised address.',
    )

    measure_utilization: bool = Field(
        True,
        description="Whether ranks count the FLOPs of one step and tell which part of the machine's they use: `mfu`.",
    )
    peak_flops: float = Field(
        0,
        ge=0,
        description="FLOPs per second that one rank could do at most; 0 means measured, once for each number of threads.",
    )
    allowed_updates: list[str] = Field(
        [],
        description="Modules and packages whose optimizers may run in ranks without a parameter server, separated by commas.",
    )

    tensorboard_dir: str = Field(
        "",
        description="Folder that rank 0 of each run writes TensorBoard's event files to, as <project>/<job>; "
        '"" means none. Needs headrace[tensorboard].',
    )

    mlflow_tracking_uri: str = Field(
        "",
        description="Where rank 0 of each run logs its measures to MLflow: http://host:port, sqlite:////path/mlflow.db; "
        '"" means nowhere. Programs can read it: give no password. Needs headrace[mlflow].',
    )

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _can_be_logged_to(cls, uri: str) -> str:
        if uri and not mlflow_tracker.is_installed():
            raise ValueError("mlflow is not installed; pip install 'headrace[mlflow]', or leave it unset")
        return uri

    @field_validator("tensorboard_dir")
    @classmethod
    def _can_be_written(cls, folder: str) -> str:
        if folder and not tensorboard.is_installed():
            raise ValueError(
                "tensorboard is not installed; pip install 'headrace[tensorboard]', or leave it unset"
            )
        return folder and str(Path(folder).resolve())  # tasks have working folders of their own

    @property
    def host(self) -> str:
        """Where ranks on other nodes reach those of this one."""
        if self.collective_host:
            return self.collective_host
        address = self.advertise_address or reachable(self.address, socket.gethostname())
        return split_address(address)[0]
