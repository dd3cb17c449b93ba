"""Programs that take more than they may, each through a real process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from headrace.tasks.limits import Limits
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.tasks.task_node import PYTHON_PATH, TaskNode, task_node

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets one process limit another")
NOBODY = 65534
ROOM = 30  # processes that a bomb may make


class Limited:
    """Starts nodes with limits, and runs one task on each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def node(self, **limits: int) -> TaskNode:
        return self._stack.enter_context(task_node(self._folder, Limits(**limits)))

    def run(self, do: str, limits: dict[str, int], size: int = 0) -> Task:
        node = self.node(**limits)
        return node.end(node.start(do, bytes=size))


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limited]:
    monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)
    with ExitStack() as stack:
        yield Limited(tmp_path, stack)


def test_a_program_that_allocates_more_than_it_may_has_failed_and_is_told_the_limit(limited: Limited) -> None:
    task = limited.run("allocate", {"memory_bytes": 512 << 20}, size=1 << 30)
    assert (task.state, task.failure.reason) == (TaskState.TASK_STATE_FAILED, "PROGRAM_FAILED")
    assert task.failure.message == "the program ran out of memory; this node allows a task 512 MiB"


def test_a_program_within_its_limit_does_not_notice(limited: Limited) -> None:
    task = limited.run("allocate", {"memory_bytes": 512 << 20}, size=64 << 20)
    assert task.result.metrics["bytes"] == 64 << 20, task.failure


def test_a_program_cannot_open_more_files_than_it_may(limited: Limited) -> None:
    task = limited.run("open_files", {"open_files": 100})
    assert "Too many open files" in task.failure.message


def test_a_program_cannot_write_a_larger_file_than_it_may(limited: Limited) -> None:
    task = limited.run("write_a_file", {"file_bytes": 1 << 20})
    assert "File too large" in task.failure.message


def test_a_program_that_used_up_its_time_is_killed_and_the_failure_says_why(limited: Limited) -> None:
    task = limited.run("burn", {"cpu_s": 3})
    assert task.failure.reason == "TASK_CRASHED"
    assert task.failure.message.endswith("SIGXCPU (it used up the CPU time that this node allows a task)")


def test_a_crash_leaves_no_core_file(limited: Limited, tmp_path: Path) -> None:
    task = limited.run("dump_core", {})
    assert task.failure.message.endswith("was killed by SIGABRT")
    assert "core 0 0" in task.failure.detail
    assert not list(tmp_path.rglob("core*"))


def test_a_fork_bomb_ends_at_the_limit_and_with_its_task(limited: Limited) -> None:
    node = limited.node(processes=running_of_user() + ROOM)
    name = node.start("bomb")
    metrics = node.until_progress(name).progress.metrics
    assert 1 <= metrics["made"] <= ROOM
    node.tasks.stop(name)
    assert node.end(name).state == TaskState.TASK_STATE_STOPPED
    # What is killed last may still be on its way out; nothing of it runs.
    _, alive = psutil.wait_procs(processes_of_group(int(metrics["pid"])), timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def running_of_user() -> int:
    """Count processes and threads of the user that the bomb runs as."""
    user = os.getuid() or NOBODY
    return sum(
        process.info["num_threads"] or 0
        for process in psutil.process_iter(["uids", "num_threads"])
        if process.info["uids"] and process.info["uids"].real == user
    )


def processes_of_group(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


READ_THE_PARENTS_ENVIRONMENT = """
import ctypes, os, sys
from headrace.tasks.limits import hide_environment
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)  # root may read everything: be nobody
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process that began as nobody
if sys.argv[1] == "hide":
    hide_environment()
if os.fork() == 0:
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:
            print("secret" if b"THE_SECRET" in file.read() else "nothing", flush=True)
    except PermissionError:
        print("refused", flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("how", "seen"), [("hide", "refused"), ("show", "secret")])
def test_a_program_cannot_read_the_secrets_of_the_service_that_started_it(how: str, seen: str) -> None:
    """It runs as the same user, and its parent's environment is a file."""
    done = subprocess.run(
        [sys.executable, "-c", READ_THE_PARENTS_ENVIRONMENT, how],
        env={**os.environ, "THE_SECRET": "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == seen
