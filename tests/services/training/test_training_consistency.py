"""Ranks in real processes under every consistency: all get to the end, and the model learns."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.parameters.v1 import stores_pb2
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import (
    ADAMW,
    SGD,
    World,
    children_of,
    final,
    stub,
    until_step,
    worker,
)

STEPS = 60


@pytest.mark.parametrize(
    ("consistency", "bound", "backups"),
    [
        (stores_pb2.CONSISTENCY_BSP, 0, 1),
        (stores_pb2.CONSISTENCY_SSP, 2, 0),
        (stores_pb2.CONSISTENCY_ASYNC, 0, 0),
    ],
    ids=["bsp with a backup worker", "ssp", "async"],
)
def test_two_ranks_get_to_the_end_and_learn(
    running: World, consistency: stores_pb2.Consistency.ValueType, bound: int, backups: int
) -> None:
    store = running.create_store(
        ADAMW, consistency=consistency, staleness_bound=bound, backup_workers=backups
    )
    requests = [
        running.request(
            "headrace_examples.tabular:BreastCancer",
            store,
            steps=STEPS,
            batch_size=64,
            rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]

    tasks = running.run(*requests)

    for task in tasks:
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    assert tasks[0].progress.step == STEPS
    assert tasks[0].result.metrics["accuracy"] > 0.85


def test_with_a_backup_worker_a_frozen_rank_holds_nobody_up_and_goes_on_where_the_run_is(
    running: World, tmp_path: Path
) -> None:
    store = running.create_store(SGD, backup_workers=1)
    quick, frozen = (
        running.request("training_programs:Slow", store, steps=STEPS, rank=rank, world_size=2)
        for rank in range(2)
    )
    with ExitStack() as stack:
        service = stack.enter_context(worker(tmp_path / "worker", running.registry_address))
        workers = stub(service.address, stack)
        workers.StartTask(frozen)
        running.workers_stub(0).StartTask(quick)
        until_step(workers, frozen.name, 1)
        (process,) = children_of(service.process)
        process.suspend()

        ended = final(running.workers_stub(0), quick.name)
        process.resume()
        resumed = final(workers, frozen.name)

    assert ended.state == TaskState.TASK_STATE_SUCCEEDED, ended.failure
    assert resumed.state == TaskState.TASK_STATE_SUCCEEDED, resumed.failure
    assert resumed.progress.step == STEPS
