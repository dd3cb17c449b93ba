"""Runs that end when no better values come: every strategy, through real workers; nobody hangs, and the best values are registered."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from headrace.parameters.v1 import stores_pb2
from headrace.training.v1.workers_pb2 import Direction, Selection, StartTaskRequest, Strategy
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import SGD, World, children_of, final, until_step

PEAKING = "training_programs:Peaking"
EVERY = 4
BEST, END = 3 * EVERY, 5 * EVERY
Ask = Callable[[World, dict[str, Any]], list[StartTaskRequest]]


def over_store(**consistency: Any) -> Ask:
    def ask(running: World, changes: dict[str, Any]) -> list[StartTaskRequest]:
        store = running.create_store(SGD, **consistency)
        return [
            running.request(PEAKING, store, steps=100_000, rank=rank, world_size=2, **changes)
            for rank in range(2)
        ]

    return ask


def all_reduce(running: World, changes: dict[str, Any]) -> list[StartTaskRequest]:
    return running.all_reduce(PEAKING, SGD, steps=100_000, **changes)


def local_sgd(running: World, changes: dict[str, Any]) -> list[StartTaskRequest]:
    requests = running.all_reduce(PEAKING, SGD, steps=100_000, average_every_steps=2, **changes)
    for request in requests:
        request.strategy = Strategy.STRATEGY_LOCAL_SGD
    return requests


def selecting(requests: list[StartTaskRequest], selection: Selection) -> list[StartTaskRequest]:
    for request in requests:
        request.options.selection.CopyFrom(selection)
    return requests


@pytest.mark.parametrize(
    "ask",
    [
        over_store(),
        over_store(consistency=stores_pb2.CONSISTENCY_BSP, backup_workers=1),
        over_store(consistency=stores_pb2.CONSISTENCY_SSP, staleness_bound=2),
        over_store(consistency=stores_pb2.CONSISTENCY_ASYNC),
        all_reduce,
        local_sgd,
    ],
    ids=["bsp", "backup", "ssp", "async", "all-reduce", "local-sgd"],
)
def test_all_ranks_end_early_and_the_best_values_become_the_version(running: World, ask: Ask) -> None:
    changes = {"evaluate_every_steps": EVERY, "model": "projects/default/models/peaking"}
    tasks = running.run(*selecting(ask(running, changes), Selection(patience=2)))
    for task in tasks:
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    lead = tasks[0]
    assert lead.best.step < lead.progress.step < 100_000
    assert (lead.best.metric, lead.best.value) == ("accuracy", 1.0)
    version = running.registry.get_version(lead.result.version)
    assert version.labels["step"] == str(lead.best.step)
    best = load(running.registry.download_bytes(lead.best.artifact))
    for name, value in running.weights(version).items():
        np.testing.assert_array_equal(best[name], value)


@pytest.mark.parametrize("ask", [over_store(), all_reduce], ids=["bsp", "all-reduce"])
def test_synchronous_ranks_end_in_the_step_in_which_patience_did(running: World, ask: Ask) -> None:
    tasks = running.run(*selecting(ask(running, {"evaluate_every_steps": EVERY}), Selection(patience=2)))
    assert tasks[0].state == TaskState.TASK_STATE_SUCCEEDED, tasks[0].failure
    assert [tasks[0].best.step, tasks[0].progress.step] == [BEST, END]
    assert (
        END - 1 <= tasks[1].progress.step <= END
    )  # its answer to the last step and the end of the run may come together


def test_the_last_values_are_registered_if_somebody_wants_them(running: World) -> None:
    changes = {"evaluate_every_steps": EVERY, "model": "projects/default/models/last"}
    requests = selecting(all_reduce(running, changes), Selection(patience=2, register_last=True))
    lead, _ = running.run(*requests)
    assert running.registry.get_version(lead.result.version).labels["step"] == str(END)
    assert lead.best.step == BEST


def test_the_best_values_of_a_killed_attempt_are_registered_by_the_next(running: World) -> None:
    """Killed without a word after its best evaluation, and long after its checkpoint."""
    model = "projects/default/models/killed"
    changes = {"evaluate_every_steps": EVERY, "checkpoint_every_steps": EVERY, "model": model}
    (first,) = selecting(
        running.all_reduce("training_programs:SlowPeaking", SGD, steps=100_000, world_size=1, **changes),
        Selection(),
    )
    workers = running.workers_stub(0)
    workers.StartTask(first)
    until_step(workers, first.name, BEST + 1)
    (rank,) = children_of(running.worker_processes[0])
    rank.kill()
    killed = final(workers, first.name)
    assert killed.state == TaskState.TASK_STATE_FAILED
    assert killed.best.step == BEST

    (second,) = selecting(
        running.all_reduce(PEAKING, SGD, steps=BEST + 2 * EVERY, world_size=1, **changes),
        Selection(patience=2),
    )
    second.epoch, second.start_step, second.snapshot = (
        2,
        killed.checkpoint.step,
        killed.checkpoint.snapshots[0],
    )
    second.best.CopyFrom(killed.best)
    second.best.value = 2.0  # this program cannot surpass
    (resumed,) = running.run(second)
    assert resumed.state == TaskState.TASK_STATE_SUCCEEDED, resumed.failure
    assert running.registry.get_version(resumed.result.version).labels["step"] == str(BEST)


def test_a_metric_that_the_program_does_not_measure_fails_with_its_name(running: World) -> None:
    selection = Selection(metric="f1", direction=Direction.DIRECTION_MAX, patience=2)
    requests = selecting(all_reduce(running, {"evaluate_every_steps": EVERY}), selection)
    tasks = running.run(*requests)
    assert [task.failure.reason for task in tasks] == ["INVALID_ARGUMENT"] * 2
    assert "measures accuracy, and no 'f1'" in tasks[0].failure.message
