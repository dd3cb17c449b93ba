"""Tasks as real subprocesses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from google.protobuf.struct_pb2 import Struct

from headrace.errors import NotFound, ResourceExhausted, ServerDraining, StaleEpoch
from headrace.tasks.descendants import MARK
from headrace.tasks.frozen import FROZEN
from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import FINAL, TaskTable
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.tasks.task_node import HERE, PYTHON_PATH

Start = Callable[..., str]


@pytest.fixture(autouse=True)
def programs_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[TaskService]:
    launch = Launcher(
        "task_program", tmp_path, {"label": "from the context"}, stop_grace_s=2, kill_grace_s=0.2
    )
    service = TaskService(TaskTable(slots=2), launch, time.time)
    yield service
    service.close(0)


@pytest.fixture
def start(tasks: TaskService) -> Start:
    def start(do: str, **fields: float) -> str:
        request = Struct()
        request.update({"do": do, **fields})
        return tasks.start(f"projects/default/tasks/{do.replace('_', '-')}", 1, request).name

    return start


def final(tasks: TaskService, name: str) -> Task:
    *_, last = tasks.watch(name, 0, lambda: True)
    assert last.state in FINAL
    return last


def test_a_task_whose_process_could_not_be_started_may_be_started_again(
    tasks: TaskService, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as overfull:
        overfull.setenv("LC_ALL", "x" * (1 << 20))  # more than the system takes in one variable
        with pytest.raises(ResourceExhausted, match="cannot start a process"):
            start("succeed", answer=1)
    assert final(tasks, start("succeed", answer=1)).state == TaskState.TASK_STATE_SUCCEEDED


def until_progress(tasks: TaskService, name: str) -> Task:
    return next(task for task in tasks.watch(name, 0, lambda: True) if task.HasField("progress"))


def wait_until_gone(*pids: int) -> None:
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_task_reports_progress_checkpoint_and_result(tasks: TaskService, start: Start) -> None:
    task = final(tasks, start("succeed", answer=42))
    assert task.state == TaskState.TASK_STATE_SUCCEEDED
    assert (task.progress.step, task.progress.total_steps) == (1000, 1000)
    assert task.checkpoint.step == 1000
    assert task.result.version == "from the context"
    assert task.result.metrics["answer"] == 42


def test_a_watcher_sees_revisions_that_grow_and_the_final_state_last(
    tasks: TaskService, start: Start
) -> None:
    seen = list(tasks.watch(start("succeed", answer=1), 0, lambda: True))
    assert [task.revision for task in seen] == sorted({task.revision for task in seen})
    assert [task.state in FINAL for task in seen] == [False] * (len(seen) - 1) + [True]


def test_a_watcher_of_a_final_task_gets_it_once_and_only_if_it_asks_for_it(
    tasks: TaskService, start: Start
) -> None:
    task = final(tasks, start("succeed", answer=1))
    assert list(tasks.watch(task.name, 0, lambda: True)) == [task]
    assert list(tasks.watch(task.name, task.revision, lambda: True)) == []


def test_a_watcher_that_left_is_let_go(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    until_progress(tasks, name)
    active = threading.Event()
    active.set()
    stream = tasks.watch(name, tasks.get(name).revision, active.is_set)
    active.clear()
    assert list(stream) == []


def test_an_exception_is_the_programs_failure_in_one_line(tasks: TaskService, start: Start) -> None:
    failure = final(tasks, start("raise")).failure
    assert failure.reason == "PROGRAM_FAILED"
    assert failure.message == "ValueError: the data is not there"
    assert failure.detail.splitlines()[-2:] == ["ValueError: the data", "is not there"]


def test_a_known_error_keeps_its_reason_and_shows_no_traceback_of_the_platform(
    tasks: TaskService, start: Start
) -> None:
    failure = final(tasks, start("raise_known")).failure
    assert (failure.reason, failure.message) == ("STALE_EPOCH", "epoch 1 has been replaced")
    assert failure.detail == ""


def test_a_program_that_calls_exit_has_failed(tasks: TaskService, start: Start) -> None:
    assert final(tasks, start("exit")).failure.message == "SystemExit: 3"


def test_a_killed_process_has_crashed_and_shows_its_last_words(tasks: TaskService, start: Start) -> None:
    task = final(tasks, start("die"))
    assert task.state == TaskState.TASK_STATE_FAILED
    assert task.failure.reason == "TASK_CRASHED"
    assert task.failure.message.endswith("was killed by SIGKILL (was the machine out of memory?)")
    assert task.failure.detail == "about to run out of memory"


def test_stop_is_heard_and_ends_the_processes_the_task_started(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    metrics = until_progress(tasks, name).progress.metrics
    assert tasks.stop(name).state == TaskState.TASK_STATE_STOPPING
    assert final(tasks, name).state == TaskState.TASK_STATE_STOPPED
    wait_until_gone(int(metrics["pid"]), int(metrics["child_pid"]))


def test_a_task_that_does_not_listen_is_ended_by_force(tmp_path: Path) -> None:
    tasks = TaskService(
        TaskTable(1), Launcher("task_program", tmp_path, stop_grace_s=0.1, kill_grace_s=0.1), time.time
    )
    request = Struct()
    request["do"] = "ignore"
    name = tasks.start("projects/default/tasks/ignore", 1, request).name
    until_progress(tasks, name)
    tasks.stop(name)
    tasks.stop(name)
    assert final(tasks, name).state == TaskState.TASK_STATE_STOPPED


def test_a_task_that_somebody_freezes_and_forgets_is_killed(tmp_path: Path) -> None:
    tasks = TaskService(TaskTable(1), Launcher("task_program", tmp_path, frozen_s=0.3), time.time)
    request = Struct()
    request["do"] = "listen"
    name = tasks.start("projects/default/tasks/listen", 1, request).name
    metrics = until_progress(tasks, name).progress.metrics
    os.kill(int(metrics["pid"]), signal.SIGSTOP)
    task = final(tasks, name)
    assert task.state == TaskState.TASK_STATE_FAILED
    assert (task.failure.reason, task.failure.message) == ("TASK_CRASHED", FROZEN)
    wait_until_gone(int(metrics["pid"]), int(metrics["child_pid"]))


def test_a_task_that_dies_while_it_is_frozen_has_crashed(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    pid = int(until_progress(tasks, name).progress.metrics["pid"])
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        threading.Event().wait(0.01)
    os.kill(pid, signal.SIGKILL)
    assert "SIGKILL" in final(tasks, name).failure.message


def test_a_task_that_is_frozen_for_a_moment_goes_on(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    pid = int(until_progress(tasks, name).progress.metrics["pid"])
    for _ in range(2):
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
    tasks.stop(name)
    assert final(tasks, name).state == TaskState.TASK_STATE_STOPPED


def test_a_task_that_is_stopped_at_once_stops(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    tasks.stop(name)
    assert final(tasks, name).state == TaskState.TASK_STATE_STOPPED


def test_a_thread_left_running_does_not_keep_the_slot(tasks: TaskService, start: Start) -> None:
    assert final(tasks, start("leave_a_thread")).state == TaskState.TASK_STATE_SUCCEEDED


def test_a_daemon_a_program_leaves_behind_ends_with_the_task(tasks: TaskService, start: Start) -> None:
    task = final(tasks, start("leave_a_daemon"))
    assert task.state == TaskState.TASK_STATE_SUCCEEDED
    wait_until_gone(int(task.progress.metrics["child_pid"]))


def test_secrets_and_settings_do_not_reach_the_program(
    tasks: TaskService, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TRAINING_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("CLOUD_SECRET_KEY", "secret")
    seen = json.loads(final(tasks, start("environment")).result.version)
    assert "PATH" in seen["names"]
    assert [name for name in seen["names"] if name.startswith("HEADRACE") or "SECRET" in name] == [MARK]
    assert not Path(seen["folder"]).exists()


def test_closing_stops_what_runs_and_takes_nothing_new(tasks: TaskService, start: Start) -> None:
    name = start("listen")
    pid = int(until_progress(tasks, name).progress.metrics["pid"])
    tasks.close(10)
    assert tasks.get(name).state == TaskState.TASK_STATE_STOPPED
    wait_until_gone(pid)
    with pytest.raises(ServerDraining):
        start("succeed", answer=1)


def test_closing_kills_what_does_not_stop_in_time(tasks: TaskService, start: Start) -> None:
    name = start("ignore")
    until_progress(tasks, name)
    tasks.close(0)
    assert tasks.get(name).state in FINAL


def test_a_listener_hears_of_every_change(tasks: TaskService, start: Start) -> None:
    changes: list[None] = []
    tasks.on_change(lambda: changes.append(None))
    final(tasks, start("succeed", answer=1))
    assert len(changes) >= 4  # started, running, result, final


@pytest.mark.parametrize("do", ["listen", "leave_a_daemon"])
def test_a_killed_service_leaves_no_process_behind(do: str, tmp_path: Path) -> None:
    """The control pipe ends with the service, and the task's process kills what it started and its own group."""
    host = subprocess.Popen(
        [sys.executable, str(HERE / "task_host.py"), str(tmp_path), do],
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert host.stdout is not None
    pids = [int(pid) for pid in host.stdout.readline().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_until_gone(*pids)
    Launcher("task_program", tmp_path)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_task_hears_all_that_it_is_told_in_that_order(tasks: TaskService, start: Start) -> None:
    name = start("hear")
    until_progress(tasks, name)
    for word in (b"one", b"two"):
        assert tasks.tell(name, 1, word).name == name
    ended = final(tasks, name)
    assert ended.result.version == "one two"
    assert tasks.tell(name, 1, b"three") == ended
    with pytest.raises(StaleEpoch, match="belongs to epoch 1"):
        tasks.tell(name, 2, b"four")
    with pytest.raises(NotFound):
        tasks.tell("projects/default/tasks/nobody", 1, b"five")
