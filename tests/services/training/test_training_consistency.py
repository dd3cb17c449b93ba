"""Ranks in real processes under every consistency: all get to the end, and the model learns."""

import pytest

from headrace.parameters.v1 import stores_pb2
from headrace.types.v1.task_pb2 import TaskState
from tests.services.training.training_world import ADAMW, World

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
