"""What every test of a whole cluster shares: real processes on loopback, and a look at what they leave behind."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose environment, command or working folder names `folder`."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != psutil.Process().pid and _names(process, folder)
    ]


def _names(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        return process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words)
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; the test fails if a process that uses it is alive at the end."""
    yield tmp_path / "headrace"
    left = processes_of(tmp_path / "headrace")
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        process.kill()
    assert not alive, f"still running: {[(process.pid, process.cmdline()) for process in alive]}"
