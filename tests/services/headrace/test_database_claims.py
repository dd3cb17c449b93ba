"""A database on SQLite has one service: a second process is refused before it does anything."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.database import claimed_by
from headrace.folder import claimed


@pytest.mark.parametrize("service", ["registry", "scheduler"])
def test_a_second_service_on_a_database_ends_with_one_line_that_says_what_to_do(
    service: str, tmp_path: Path
) -> None:
    prefix = f"HEADRACE_{service.upper()}_"
    settings = {
        "ADDRESS": "127.0.0.1:0",
        "METRICS_ADDRESS": "",
        "LOG_FORMAT": "json",
        "DATA_DIR": str(tmp_path),
    }
    with claimed_by(service, f"sqlite:///{tmp_path}/{service}.db", "wait"):
        ended = subprocess.run(
            [sys.executable, "-m", f"headrace_{service}"],
            env={"PATH": os.environ["PATH"]} | {prefix + name: value for name, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    (error,) = [
        line["error"] for line in map(json.loads, ended.stderr.splitlines()) if line["level"] == "error"
    ]
    assert error == (
        f"{tmp_path} is in use by another {service}; stop that, or choose another folder with {prefix}DATA_DIR"
    )
    assert ended.returncode == 1


def test_a_scheduler_a_registry_and_the_supervisor_can_share_a_folder(tmp_path: Path) -> None:
    with ExitStack() as claims:
        claims.enter_context(claimed(tmp_path))
        for service in ("registry", "scheduler"):
            claims.enter_context(claimed_by(service, f"sqlite:///{tmp_path}/{service}.db", "wait"))


def test_a_database_on_postgresql_is_nobodys_alone() -> None:
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    with claimed_by("registry", url, "wait"), claimed_by("registry", url, "wait"):
        pass
