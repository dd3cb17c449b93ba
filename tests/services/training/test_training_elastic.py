"""Ranks in real processes that are killed, frozen and replaced in the middle of a run: it ends where an undisturbed one does."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from headrace.parameters.client import StoresClient
from headrace.parameters.layout import Floats
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.training.training_world import (
    ADAMW,
    Service,
    World,
    children_of,
    final,
    stub,
    until_step,
    worker,
)

STEPS, KILLED_AT = 40, 8
MODEL = "projects/default/models/elastic"


class Elastic:
    """Two workers of their own, and a store whose members the test decides about."""

    def __init__(self, running: World, services: list[Service], stack: ExitStack) -> None:
        self.running, self.services = running, services
        self.workers: list[WorkersStub] = [stub(service.address, stack) for service in services]
        self.store = running.create_store(ADAMW)

    def start(self, rank: int, on: int, program: str = "training_programs:Slow") -> StartTaskRequest:
        request = self.running.request(program, self.store, steps=STEPS, rank=rank, world_size=2)
        request.elastic, request.model = True, MODEL
        self.workers[on].StartTask(request)
        return request

    def process(self, on: int) -> psutil.Process:
        (rank,) = children_of(self.services[on].process)
        return rank

    def set_members(self, generation: int, *ranks: int) -> None:
        for address in self.running.shards:
            with StoresClient(address) as stores:
                stores.set_members(self.store, ranks, epoch=1, generation=generation)

    def weights(self, task: Task) -> dict[str, Floats]:
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
        assert task.result.led
        return self.running.weights(self.running.registry.get_version(task.result.version))


@pytest.fixture
def elastic(running: World, tmp_path: Path) -> Iterator[Elastic]:
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                worker(tmp_path / f"worker-{index}", running.registry_address, FROZEN_S="600")
            )
            for index in range(2)
        ]
        yield Elastic(running, services, stack)


@pytest.fixture
def undisturbed(running: World) -> dict[str, Floats]:
    """What one rank alone makes of the same batches."""
    store = running.create_store(ADAMW, workers=1)
    request = running.request("training_programs:Small", store, steps=STEPS, model=MODEL)
    (task,) = running.run(request)
    return running.weights(running.registry.get_version(task.result.version))


def assert_same(found: dict[str, Floats], expected: dict[str, Floats]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_a_rank_that_is_killed_is_replaced_and_nothing_of_it_is_missing(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    lead, other = elastic.start(0, on=0), elastic.start(1, on=1)
    until_step(elastic.workers[1], other.name, KILLED_AT)
    elastic.process(on=1).kill()
    elastic.set_members(1, 0)
    assert final(elastic.workers[1], other.name).failure.reason == "TASK_CRASHED"

    late = elastic.start(2, on=1)
    elastic.set_members(2, 0, 2)

    assert_same(elastic.weights(final(elastic.workers[0], lead.name)), undisturbed)
    joined = final(elastic.workers[1], late.name)
    assert joined.state == TaskState.TASK_STATE_SUCCEEDED
    assert not joined.result.led


def test_when_the_one_that_leads_is_killed_the_next_registers_the_result(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    elastic.start(0, on=0)
    other = elastic.start(1, on=1)
    until_step(elastic.workers[1], other.name, KILLED_AT)
    elastic.process(on=0).kill()
    elastic.set_members(1, 1)

    assert_same(elastic.weights(final(elastic.workers[1], other.name)), undisturbed)


def test_a_frozen_rank_that_thaws_too_late_is_refused_and_changes_nothing(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    lead, zombie = elastic.start(0, on=0), elastic.start(1, on=1)
    until_step(elastic.workers[1], zombie.name, KILLED_AT)
    process = elastic.process(on=1)
    process.send_signal(signal.SIGSTOP)
    elastic.set_members(1, 0)
    until_step(elastic.workers[0], lead.name, KILLED_AT + 10)
    process.send_signal(signal.SIGCONT)

    ended = final(elastic.workers[1], zombie.name)
    assert (ended.state, ended.failure.reason) == (TaskState.TASK_STATE_FAILED, "STALE_EPOCH")
    assert "worker 1 was left out" in ended.failure.message
    assert_same(elastic.weights(final(elastic.workers[0], lead.name)), undisturbed)
