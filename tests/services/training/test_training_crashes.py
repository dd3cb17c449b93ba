"""What is left when a rank or its worker is killed: nothing."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from headrace.errors import FailedPrecondition, ProgramNotAllowed
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.program_pb2 import Archive, Program
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import (
    SGD,
    Service,
    World,
    children_of,
    final,
    stub,
    until_step,
    worker,
)


class OneWorker:
    """A worker of its own, to be killed."""

    def __init__(self, running: World, service: Service, workers: WorkersStub) -> None:
        self.running, self.service, self.workers = running, service, workers

    def start_slow(self) -> StartTaskRequest:
        """Start a rank that takes its time, and return when it trains."""
        store = self.running.create_store(SGD, workers=1)
        request = self.running.request("training_programs:Slow", store, steps=1000)
        self.workers.StartTask(request)
        until_step(self.workers, request.name, 1)
        return request


@pytest.fixture
def one(running: World, tmp_path: Path) -> Iterator[OneWorker]:
    with ExitStack() as stack:
        service = stack.enter_context(worker(tmp_path / "worker", running.registry_address))
        yield OneWorker(running, service, stub(service.address, stack))


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_killed_rank_has_crashed_and_its_worker_takes_the_next(one: OneWorker) -> None:
    request = one.start_slow()
    (rank,) = children_of(one.service.process)
    rank.kill()
    task = final(one.workers, request.name)
    assert task.state == TaskState.TASK_STATE_FAILED
    assert task.failure.reason == "TASK_CRASHED"
    assert "SIGKILL" in task.failure.message
    one.start_slow()


def test_a_killed_worker_leaves_no_rank_behind(one: OneWorker) -> None:
    one.start_slow()
    ranks = children_of(one.service.process)
    one.service.end()
    assert_gone(ranks)


def test_a_worker_that_is_told_to_leave_stops_its_rank_and_leaves_with_0(one: OneWorker) -> None:
    one.start_slow()
    ranks = children_of(one.service.process)
    one.service.process.send_signal(signal.SIGTERM)
    assert one.service.process.wait(timeout=20) == 0
    assert_gone(ranks)


def test_a_worker_that_does_not_allow_archives_refuses_them(one: OneWorker) -> None:
    artifact = f"projects/default/artifacts/{'0' * 64}"
    program = Program(archive=Archive(artifact=artifact, object="mine:Small"))
    with pytest.raises(ProgramNotAllowed, match="ALLOW_ARCHIVES"):
        one.workers.StartTask(one.running.request(program, "projects/default/stores/s", steps=1))


def test_a_worker_without_a_registry_says_that_a_model_needs_one(running: World, tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(worker(tmp_path / "worker", ""))
        workers = stub(service.address, stack)
        store = running.create_store(SGD, workers=1)
        request = running.request("training_programs:Small", store, steps=2)
        workers.StartTask(request)
        assert final(workers, request.name).state == TaskState.TASK_STATE_SUCCEEDED
        request.name += "-2"
        request.model = "projects/default/models/m"
        with pytest.raises(FailedPrecondition, match="REGISTRY_ADDRESS"):
            workers.StartTask(request)
