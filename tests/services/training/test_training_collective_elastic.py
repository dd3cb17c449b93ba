"""Ranks that sum among themselves are killed, frozen and replaced in the middle of a run: it ends where an undisturbed one does."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import psutil
import pytest

from headrace.parameters.layout import Floats
from headrace.training.v1.workers_pb2 import Lead, SetMembersRequest, StartTaskRequest, Strategy
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
MODEL = "projects/default/models/collective"


class Elastic:
    """Two workers of their own, whose ranks hear from the test who they are."""

    def __init__(self, running: World, services: list[Service], stack: ExitStack) -> None:
        self.running, self.services = running, services
        self.workers: list[WorkersStub] = [stub(service.address, stack) for service in services]
        self._started: dict[int, tuple[StartTaskRequest, int]] = {}  # by rank, with the worker it is on

    def start(self, rank: int, on: int, **changes: object) -> str:
        (request, *_) = self.running.all_reduce("training_programs:Slow", ADAMW, steps=STEPS, model=MODEL)
        request.rank, request.elastic = rank, True
        request.ClearField("lead")
        for key, value in changes.items():
            setattr(request.options if hasattr(request.options, key) else request, key, value)
        self.workers[on].StartTask(request)
        self._started[rank] = request, on
        return request.name

    def set_members(self, generation: int, ranks: Sequence[int], told: Sequence[int] = ()) -> None:
        first, on = self._started[ranks[0]]
        lead = Lead(address=self.services[on].address, task=first.name)
        for rank in told or ranks:
            request, on = self._started[rank]
            self.workers[on].SetMembers(
                SetMembersRequest(name=request.name, epoch=1, generation=generation, members=ranks, lead=lead)
            )

    def process(self, on: int) -> psutil.Process:
        (rank,) = children_of(self.services[on].process)
        return rank

    def weights(self, task: Task) -> dict[str, Floats]:
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
        assert task.result.led
        return self.running.weights(self.running.registry.get_version(task.result.version))


@pytest.fixture(scope="module")
def services(running: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    folder = tmp_path_factory.mktemp("collective")
    with ExitStack() as stack:
        yield [
            stack.enter_context(worker(folder / f"worker-{index}", running.registry_address, FROZEN_S="600"))
            for index in range(2)
        ]


@pytest.fixture
def elastic(running: World, services: list[Service]) -> Iterator[Elastic]:
    with ExitStack() as stack:
        yield Elastic(running, services, stack)


@pytest.fixture(scope="module")
def undisturbed(running: World) -> dict[str, Floats]:
    """What one rank alone makes of the same batches."""
    requests = running.all_reduce("training_programs:Small", ADAMW, steps=STEPS, world_size=1, model=MODEL)
    (task,) = running.run(*requests)
    return running.weights(running.registry.get_version(task.result.version))


def assert_same(found: dict[str, Floats], expected: dict[str, Floats]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_a_rank_that_is_killed_is_replaced_by_one_that_takes_over_the_state(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    lead, other = elastic.start(0, on=0), elastic.start(1, on=1)
    elastic.set_members(1, [0, 1])
    until_step(elastic.workers[1], other, KILLED_AT)
    elastic.process(on=1).kill()
    assert final(elastic.workers[1], other).failure.reason == "TASK_CRASHED"

    late = elastic.start(2, on=1)
    elastic.set_members(2, [0, 2])  # until then rank 0 waits: it cannot be done before the new one joins

    assert_same(elastic.weights(final(elastic.workers[0], lead)), undisturbed)
    joined = final(elastic.workers[1], late)
    assert joined.state == TaskState.TASK_STATE_SUCCEEDED, joined.failure
    assert not joined.result.led


def test_when_the_one_that_leads_is_killed_the_next_registers_what_it_would_have(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    elastic.start(0, on=0)
    other = elastic.start(1, on=1)
    elastic.set_members(1, [0, 1])
    until_step(elastic.workers[1], other, KILLED_AT)
    elastic.process(on=0).kill()
    elastic.set_members(2, [1])

    assert_same(elastic.weights(final(elastic.workers[1], other)), undisturbed)


def test_a_frozen_rank_that_thaws_too_late_changes_nothing(
    elastic: Elastic, undisturbed: dict[str, Floats]
) -> None:
    lead, zombie = elastic.start(0, on=0), elastic.start(1, on=1)
    elastic.set_members(1, [0, 1])
    until_step(elastic.workers[1], zombie, KILLED_AT)
    process = elastic.process(on=1)
    process.send_signal(signal.SIGSTOP)
    elastic.set_members(2, [0])
    until_step(elastic.workers[0], lead, KILLED_AT + 10)
    process.send_signal(signal.SIGCONT)

    elastic.set_members(2, [0], told=[1])

    ended = final(elastic.workers[1], zombie)
    assert (ended.state, ended.failure.reason) == (TaskState.TASK_STATE_FAILED, "STALE_EPOCH")
    assert "worker 1 was left out" in ended.failure.message
    assert_same(elastic.weights(final(elastic.workers[0], lead)), undisturbed)


def test_local_sgd_goes_on_without_a_rank_and_with_a_new_one(elastic: Elastic) -> None:
    local = {"strategy": Strategy.STRATEGY_LOCAL_SGD, "average_every_steps": 4}
    lost = elastic.start(0, on=0, **local)
    other = elastic.start(1, on=1, **local)
    elastic.set_members(1, [0, 1])
    until_step(elastic.workers[1], other, KILLED_AT)
    elastic.process(on=0).kill()
    assert final(elastic.workers[0], lost).failure.reason == "TASK_CRASHED"
    late = elastic.start(2, on=0, **local)
    elastic.set_members(2, [1, 2])

    done, joined = final(elastic.workers[1], other), final(elastic.workers[0], late)

    assert done.result.led, done.failure
    assert done.progress.step == joined.progress.step == STEPS
    assert joined.state == TaskState.TASK_STATE_SUCCEEDED, joined.failure
