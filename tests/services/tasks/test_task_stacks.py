"""Where a running task is, and what cannot be looked into."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import DeadlineExceeded, FailedPrecondition, NotFound
from headrace.tasks import stacks
from headrace.tasks.v1.inspection_pb2 import CaptureProfileRequest, DumpStacksRequest, Stacks
from headrace.types.v1.task_pb2 import TaskState
from tests.services.tasks.task_node import PROJECT, PYTHON_PATH, TaskNode, task_node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskNode]:
    monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)
    with task_node(tmp_path) as started:
        yield started


@pytest.fixture
def no_py_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_by_py_spy", lambda pid: None)


def dump(node: TaskNode, name: str) -> Stacks:
    return node.inspection.DumpStacks(DumpStacksRequest(name=name))


def test_the_task_tells_where_each_thread_is_and_goes_on(node: TaskNode, no_py_spy: None) -> None:
    name = node.start("listen")
    node.until_progress(name)
    for _ in range(2):
        found = dump(node, name)
        assert found.source == "faulthandler"
        assert "in _listen" in found.text
        assert "in _obey" in found.text, "the thread that hears of a stop"
        assert found.text.count("Current thread") == 1, "one dump, not those before it"
    node.tasks.stop(name)
    assert node.end(name).state == TaskState.TASK_STATE_STOPPED


def test_a_task_that_hangs_in_c_with_the_interpreter_locked_tells_too(
    node: TaskNode, no_py_spy: None
) -> None:
    name = node.start("hang_in_c")
    node.until_progress(name)
    assert "in _hang_in_c" in dump(node, name).text


def test_py_spy_looks_if_it_is_installed_and_may(node: TaskNode) -> None:
    name = node.start("listen")
    node.until_progress(name)
    found = dump(node, name)
    assert found.source in ("py-spy", "faulthandler")
    assert "_listen" in found.text


def test_a_frozen_task_does_not_answer(
    node: TaskNode, no_py_spy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "_WAIT_S", 0.3)
    name = node.start("listen")
    pid = int(node.until_progress(name).progress.metrics["pid"])
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.3 s"):
        dump(node, name)
    os.kill(pid, signal.SIGCONT)


def test_a_task_that_has_ended_cannot_be_looked_into(node: TaskNode) -> None:
    name = node.start("leave_a_thread")
    node.end(name)
    with pytest.raises(FailedPrecondition, match="is SUCCEEDED; only a task that runs"):
        dump(node, name)
    node.tasks.forget([name])
    with pytest.raises(FailedPrecondition, match="has ended; only a task that runs"):
        dump(node, name)
    with pytest.raises(NotFound):
        dump(node, f"{PROJECT}/nobody")


def test_a_task_without_steps_says_that_it_cannot_be_recorded(node: TaskNode) -> None:
    name = node.start("listen")
    node.until_progress(name)
    with pytest.raises(FailedPrecondition, match="has no steps that could be recorded"):
        list(node.inspection.CaptureProfile(CaptureProfileRequest(name=name), timeout=20))
