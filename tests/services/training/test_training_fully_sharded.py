"""Runs whose ranks hold a part of the model each: they end where a single process does, and fail as all-reduce does."""

from typing import Any

import numpy as np
import pytest

from headrace.parameters.v1 import stores_pb2
from headrace.program.loading import load_attribute
from headrace.training.v1.workers_pb2 import Precision, Selection, StartTaskRequest
from headrace.types.v1.program_pb2 import Program as ProgramMessage
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.test_training_all_reduce import end, start
from tests.services.training.test_training_matches_torch import (
    BATCH,
    CASES,
    SEED,
    STEPS,
    TEXT,
    single_process,
)
from tests.services.training.training_world import ADAMW, SGD, World, children_of, until_step

LAYERED = "training_programs:Layered"


def sharded(
    running: World, program: ProgramMessage | str, optimizer: stores_pb2.Optimizer, **changes: Any
) -> list[StartTaskRequest]:
    return running.all_reduce(program, optimizer, fully_sharded=True, **changes)


@pytest.mark.parametrize(
    ("name", "config", "optimizer", "changes"),
    [
        ("headrace_examples.tabular:BreastCancer", {}, "clipped", {"accumulate": 3}),
        ("headrace_examples.text:CharacterModel", TEXT, "adamw", {"checkpoint_activations": True}),
    ],
)
def test_two_ranks_with_a_part_each_equal_one_process(
    running: World, name: str, config: dict[str, int], optimizer: str, changes: dict[str, Any]
) -> None:
    asked = ProgramMessage(module=name)
    asked.config.update(config)
    expected = single_process(load_attribute(name, config), CASES[optimizer], 1)
    model = f"projects/default/models/sharded-{optimizer}"
    case = CASES[optimizer].optimizer
    requests = sharded(running, asked, case, steps=STEPS, batch_size=BATCH, seed=SEED, model=model, **changes)

    first, second = running.run(*requests)

    assert (first.state, second.state) == (TaskState.TASK_STATE_SUCCEEDED,) * 2, (
        first.failure,
        second.failure,
    )
    assert second.result.version == ""
    trained = running.weights(running.registry.get_version(first.result.version))
    assert trained.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(trained[key], value, rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.timeout(300)  # four runs, one after the other
def test_a_run_goes_on_with_another_number_of_ranks_and_then_unsharded(running: World) -> None:
    """Batches of 15 of 50 rows: shares are unequal, and the last batch of an epoch is smaller."""
    unbroken = running.all_reduce(
        LAYERED, ADAMW, steps=20, batch_size=15, model="projects/default/models/unbroken-layers"
    )
    (whole, _) = running.run(*unbroken)
    first = sharded(running, LAYERED, ADAMW, steps=7, batch_size=15, checkpoint_every_steps=7)
    (begun, other) = running.run(*first)
    assert begun.checkpoint.step == 7, begun.failure
    assert not other.HasField("checkpoint")
    going_on: dict[str, Any] = {
        "batch_size": 15,
        "start_step": 7,
        "snapshot": begun.checkpoint.snapshots[0],
        "epoch": 2,
    }
    (alone,) = sharded(running, LAYERED, ADAMW, steps=14, world_size=1, checkpoint_every_steps=14, **going_on)
    (middle,) = running.run(alone)
    assert middle.checkpoint.step == 14, middle.failure
    going_on |= {"start_step": 14, "snapshot": middle.checkpoint.snapshots[0], "epoch": 3}
    model = "projects/default/models/rejoined-layers"
    (last, _) = running.run(*running.all_reduce(LAYERED, ADAMW, steps=20, model=model, **going_on))

    expected = running.weights(running.registry.get_version(whole.result.version))
    for name, value in running.weights(running.registry.get_version(last.result.version)).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_the_best_values_are_kept_and_all_ranks_end_early(running: World) -> None:
    requests = sharded(
        running,
        "training_programs:LayeredPeaking",
        SGD,
        steps=40,
        evaluate_every_steps=2,
        model="projects/default/models/sharded-peak",
    )
    for request in requests:
        request.options.selection.CopyFrom(Selection(patience=3))

    tasks = running.run(*requests)

    assert [task.state for task in tasks] == [TaskState.TASK_STATE_SUCCEEDED] * 2, tasks[0].failure
    assert (tasks[0].best.step, tasks[0].progress.step) == (6, 12)
    version = running.registry.get_version(tasks[0].result.version)
    assert version.labels["step"] == "6"


def test_blocks_compute_in_bfloat16_and_the_result_is_fp32(running: World) -> None:
    requests = sharded(
        running,
        LAYERED,
        SGD,
        steps=40,
        precision=Precision.PRECISION_BF16,
        model="projects/default/models/sharded-bf16",
    )

    first, second = running.run(*requests)

    assert second.state == TaskState.TASK_STATE_SUCCEEDED, second.failure
    assert first.result.metrics["accuracy"] > 0.8
    trained = running.weights(running.registry.get_version(first.result.version))
    assert {value.dtype for value in trained.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_with_a_reason_that_costs_an_attempt(
    running: World, killed: int
) -> None:
    requests = sharded(running, "training_programs:LayeredSlow", SGD, steps=1000)
    start(running, requests)
    until_step(running.workers_stub(0), requests[0].name, 1)
    until_step(running.workers_stub(1), requests[1].name, 1)

    for child in children_of(running.worker_processes[killed]):
        child.kill()

    tasks = end(running, requests)
    assert tasks[killed].failure.reason == "TASK_CRASHED"
    assert tasks[1 - killed].failure.reason == "UNAVAILABLE", tasks[1 - killed].failure


def test_all_ranks_fail_with_the_reason_of_the_one_that_failed(running: World) -> None:
    """The others wait inside of their models for gradients that do not come."""
    requests = sharded(running, "training_programs:LayeredNotFinite", SGD, steps=10, batch_size=15)

    tasks = running.run(*requests)

    assert [task.failure.reason for task in tasks] == ["NON_FINITE_VALUES"] * 2, [
        task.failure for task in tasks
    ]
    assert tasks[0].failure.message.startswith("rank 1: the loss is nan in step 0")
    assert tasks[1].failure.message.startswith("the loss is nan in step 0")
