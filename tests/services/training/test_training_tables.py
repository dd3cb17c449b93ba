"""Models with tables, trained by ranks in real processes: as one process trains them, also when ranks are killed and runs go on."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from headrace.parameters.client import StoresClient
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import stores_pb2
from headrace.types.v1.task_pb2 import Task, TaskState
from headrace_examples.recommender import popularity
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

STEPS = 40
MODEL = "projects/default/models/keyed"
KEYED = "training_programs:Keyed"


def weights(running: World, task: Task) -> dict[str, Floats]:
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    return running.weights(running.registry.get_version(task.result.version))


def assert_same(found: dict[str, Floats], expected: dict[str, Floats]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def alone(running: World) -> dict[str, Floats]:
    """What one rank makes of the same batches, undisturbed."""
    store = running.create_store(ADAMW, workers=1)
    (task,) = running.run(running.request(KEYED, store, steps=STEPS, model=MODEL))
    return weights(running, task)


def test_two_ranks_end_where_one_does_and_the_version_has_all_rows(
    running: World, alone: dict[str, Floats]
) -> None:
    store = running.create_store(ADAMW)
    requests = [
        running.request(KEYED, store, steps=STEPS, rank=rank, world_size=2, accumulate=rank + 1, model=MODEL)
        for rank in range(2)
    ]

    first, _ = running.run(*requests)

    found = weights(running, first)
    assert_same(found, alone)
    assert set(found) == {
        *("words.keys", "words.rows", "shared.keys", "shared.rows", "output.weight", "output.bias")
    }
    assert 50 < len(found["words.keys"]) <= 90, "and no more, of 120 keys"
    assert found["shared.keys"].tolist() == [0]


def test_two_ranks_clip_rows_and_lamb_s_dense_values_by_one_norm_as_one_rank_does(running: World) -> None:
    optimizer = stores_pb2.Optimizer(lamb=stores_pb2.Lamb(learning_rate=0.01), maximum_gradient_norm=0.1)
    found = []
    for ranks in (1, 2):
        store = running.create_store(optimizer, workers=ranks)
        requests = [
            running.request(KEYED, store, steps=10, rank=rank, world_size=ranks, model=MODEL)
            for rank in range(ranks)
        ]
        found.append(weights(running, running.run(*requests)[0]))

    assert_same(found[1], found[0])


def test_a_run_that_goes_on_from_a_checkpoint_ends_where_an_undisturbed_one_does(
    running: World, alone: dict[str, Floats]
) -> None:
    store = running.create_store(ADAMW, workers=1)
    first = running.request(KEYED, store, steps=STEPS // 2, checkpoint_every_steps=STEPS // 2)
    (half,) = running.run(first)
    assert half.checkpoint.step == STEPS // 2

    again = running.create_store(ADAMW, name=store, epoch=2, snapshots=half.checkpoint.snapshots)
    requests = [
        running.request(
            KEYED, again, steps=STEPS, start_step=STEPS // 2, epoch=2, rank=rank, world_size=2, model=MODEL
        )
        for rank in range(2)
    ]
    first_rank, _ = running.run(*requests)

    assert_same(weights(running, first_rank), alone)


def test_when_a_rank_is_killed_the_others_go_on_and_no_row_is_another_one(
    running: World, alone: dict[str, Floats], tmp_path: Path
) -> None:
    store = running.create_store(ADAMW)
    with ExitStack() as stack:
        services = [
            stack.enter_context(worker(tmp_path / f"worker-{index}", running.registry_address))
            for index in range(2)
        ]
        stubs = [stub(service.address, stack) for service in services]
        requests = [
            running.request("training_programs:SlowKeyed", store, steps=STEPS, rank=rank, world_size=2)
            for rank in range(2)
        ]
        for workers, request in zip(stubs, requests, strict=True):
            request.elastic, request.model = True, MODEL
            workers.StartTask(request)
        until_step(stubs[1], requests[1].name, 4)
        children_of(services[1].process)[0].kill()
        for address in running.shards:
            with StoresClient(address) as stores:
                stores.set_members(store, [0], epoch=1, generation=1)

        assert_same(weights(running, final(stubs[0], requests[0].name)), alone)


def test_a_run_whose_shards_change_meanwhile_ends_where_an_undisturbed_one_does(running: World) -> None:
    found = []
    for changes in (False, True):
        store, first, second = running.create_store(ADAMW), *running.shards
        requests = [
            running.request("training_programs:SlowUnbounded", store, steps=STEPS, rank=rank, world_size=2)
            for rank in range(2)
        ]
        stubs = [running.workers_stub(rank) for rank in range(2)]
        for workers, request in zip(stubs, requests, strict=True):
            request.model = MODEL
            workers.StartTask(request)
        if changes:
            until_step(stubs[0], requests[0].name, 3)
            with StoresClient(first, timeout_s=30) as stores:
                stores.reshard(store, epoch=1, map_epoch=1, shards=[first, second], add=[], remove=[second])
                stores.reshard(store, epoch=1, map_epoch=2, shards=[first], add=[second], remove=[])
        tasks = [final(workers, request.name) for workers, request in zip(stubs, requests, strict=True)]
        found.append(weights(running, tasks[0]))

    assert_same(found[1], found[0])


@pytest.mark.parametrize(
    ("consistency", "bound", "backups"),
    [
        (stores_pb2.CONSISTENCY_BSP, 0, 1),
        (stores_pb2.CONSISTENCY_SSP, 1, 0),
        (stores_pb2.CONSISTENCY_ASYNC, 0, 0),
    ],
    ids=["bsp with a backup worker", "ssp", "async"],
)
def test_two_ranks_get_to_the_end_and_beat_what_popularity_tells(
    running: World, consistency: stores_pb2.Consistency.ValueType, bound: int, backups: int
) -> None:
    store = running.create_store(SGD, consistency=consistency, staleness_bound=bound, backup_workers=backups)
    requests = [
        running.request(
            "headrace_examples.recommender:Recommender",
            store,
            steps=120,
            batch_size=1000,
            checkpoint_every_steps=50,
            rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]

    tasks = running.run(*requests)

    for task in tasks:
        assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    assert tasks[0].result.metrics["accuracy"] > popularity() + 0.1


def test_without_a_parameter_server_a_model_with_tables_is_refused(running: World) -> None:
    tasks = running.run(*running.all_reduce(KEYED, SGD, steps=3))

    for task in tasks:
        assert task.state == TaskState.TASK_STATE_FAILED
        assert "rows live in a parameter server alone" in task.failure.message
