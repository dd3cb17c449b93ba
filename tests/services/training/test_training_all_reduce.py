"""Runs without a parameter server, through real workers: what they save, how they fail, and that they never hang."""

import time

import numpy as np
import pytest

from headrace.training.v1.workers_pb2 import StartTaskRequest, Strategy
from headrace.types.v1.task_pb2 import StopTaskRequest, Task, TaskState
from tests.services.training.training_world import SGD, World, final, until_step, watch

SMALL, SLOW = "training_programs:Small", "training_programs:Slow"
QUICK_S = 30.0  # on a busy machine too, and nothing beside the ten minutes that a step may take


def start(running: World, requests: list[StartTaskRequest]) -> None:
    for index, request in enumerate(requests):
        running.workers_stub(index).StartTask(request)


def end(running: World, requests: list[StartTaskRequest]) -> list[Task]:
    return [final(running.workers_stub(index), request.name) for index, request in enumerate(requests)]


def test_a_run_resumed_from_its_checkpoint_equals_one_without_a_break(running: World) -> None:
    models = {name: f"projects/default/models/{name}" for name in ("unbroken", "again")}
    (unbroken, _) = running.run(*running.all_reduce(SMALL, SGD, steps=20, model=models["unbroken"]))
    (broken, other) = running.run(*running.all_reduce(SMALL, SGD, steps=12, checkpoint_every_steps=10))
    assert (broken.checkpoint.step, len(broken.checkpoint.snapshots)) == (10, 1)
    assert not other.HasField("checkpoint")
    (resumed, _) = running.run(
        *running.all_reduce(
            SMALL,
            SGD,
            steps=20,
            start_step=10,
            snapshot=broken.checkpoint.snapshots[0],
            epoch=2,
            model=models["again"],
        )
    )
    assert resumed.state == TaskState.TASK_STATE_SUCCEEDED, resumed.failure
    version = running.registry.get_version(resumed.result.version)
    assert version.labels["strategy"] == "all_reduce"
    expected = running.weights(running.registry.get_version(unbroken.result.version))
    for name, value in running.weights(version).items():
        np.testing.assert_array_equal(expected[name], value)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["rank 0 first", "rank 1 first"])
def test_the_ranks_meet_whichever_comes_first(running: World, order: tuple[int, int]) -> None:
    requests = running.all_reduce(SMALL, SGD, steps=2)
    for index in order:
        running.workers_stub(index).StartTask(requests[index])
        if index == order[0]:
            next(
                task
                for task in watch(running.workers_stub(index), requests[index].name)
                if task.progress.stage
            )
    assert [task.state for task in end(running, requests)] == [TaskState.TASK_STATE_SUCCEEDED] * 2


def test_a_run_of_one_rank_needs_nobody(running: World) -> None:
    (request,) = running.all_reduce(SMALL, SGD, steps=2, world_size=1)
    request.ClearField("lead")
    (task,) = running.run(request)
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    assert task.rendezvous == ""


def test_local_sgd_trains_to_one_version(running: World) -> None:
    model = "projects/default/models/local"
    requests = running.all_reduce(SMALL, SGD, steps=41, average_every_steps=4, model=model)
    for request in requests:
        request.strategy = Strategy.STRATEGY_LOCAL_SGD
    tasks = running.run(*requests)
    assert tasks[0].result.metrics["accuracy"] > 0.8, tasks[0].failure
    assert running.registry.get_version(tasks[0].result.version).labels["strategy"] == "local_sgd"
    assert tasks[1].state == TaskState.TASK_STATE_SUCCEEDED


@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_goes_ends_the_others_quickly_with_a_reason_that_costs_an_attempt(
    running: World, gone: int
) -> None:
    requests = running.all_reduce(SLOW, SGD, steps=1000)
    start(running, requests)
    until_step(running.workers_stub(0), requests[0].name, 1)
    began = time.monotonic()
    running.workers_stub(gone).StopTask(StopTaskRequest(name=requests[gone].name))
    tasks = end(running, requests)
    assert time.monotonic() - began < QUICK_S
    assert tasks[gone].state == TaskState.TASK_STATE_STOPPED
    assert tasks[1 - gone].failure.reason == "UNAVAILABLE"
    assert "lost touch with another rank" in tasks[1 - gone].failure.message


def test_all_ranks_fail_with_the_reason_of_the_one_that_failed(running: World) -> None:
    requests = running.all_reduce("training_programs:RaisingOnOdd", SGD, steps=10, batch_size=15)
    tasks = running.run(*requests)
    assert [task.failure.reason for task in tasks] == ["PROGRAM_FAILED"] * 2
    assert tasks[0].failure.message == "rank 1: KeyError: 'row 17 has no label'"
    assert tasks[1].failure.message == "KeyError: 'row 17 has no label'"


def test_a_rank_whose_lead_fails_before_they_meet_fails_alike(running: World) -> None:
    requests = running.all_reduce(SMALL, SGD, steps=2)
    requests[0].program.module = "training_programs:Smal"
    tasks = running.run(*requests)
    assert [task.failure.reason for task in tasks] == ["INVALID_ARGUMENT"] * 2
    assert tasks[1].failure.message.startswith("rank 0: ")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_for_another_one_stops_at_once(running: World, rank: int) -> None:
    """The other rank never comes, so the meeting would wait for its ten minutes."""
    request = running.all_reduce(SMALL, SGD, steps=5)[rank]
    workers = running.workers_stub(rank)
    workers.StartTask(request)
    next(task for task in watch(workers, request.name) if task.progress.stage == "loading")
    began = time.monotonic()
    workers.StopTask(StopTaskRequest(name=request.name))
    assert final(workers, request.name).state == TaskState.TASK_STATE_STOPPED
    assert time.monotonic() - began < QUICK_S  # importing what is left of torch included
