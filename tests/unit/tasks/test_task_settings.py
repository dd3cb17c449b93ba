"""What a node that runs tasks can be told about how much they may use."""

from pathlib import Path

import pytest

from headrace.config import ConfigError, load
from headrace.tasks import settings
from headrace.tasks.limits import Limits
from headrace.tasks.records import Kept
from headrace.tasks.settings import TaskNodeSettings


class Settings(TaskNodeSettings):
    data_dir: Path = Path("data")


def test_limits_and_what_is_kept_are_read_from_the_environment() -> None:
    found = load(
        Settings,
        {
            "TASK_MEMORY_BYTES": str(1 << 30),
            "TASK_OPEN_FILES": "256",
            "TASK_PROCESSES": "100",
            "TASK_FILE_BYTES": "4096",
            "TASK_CPU_S": "60",
            "KEPT_LOG_BYTES": str(1 << 20),
            "KEPT_TASKS": "7",
        },
    )
    assert found.task_limits == Limits(1 << 30, 256, 100, 4096, 60)
    assert found.kept == Kept(1 << 20, 7)
    assert load(Settings, {}).task_limits == Limits()


def test_a_system_that_cannot_limit_says_so_instead_of_letting_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "can_limit", lambda: False)
    load(Settings, {})
    with pytest.raises(ConfigError, match="this system cannot limit tasks"):
        load(Settings, {"TASK_CPU_S": "60"})
