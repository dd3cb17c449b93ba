"""Data that are streamed, through real workers: from files, and from an object store."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.types.v1.program_pb2 import Program
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.training.training_world import ADAMW, SGD, World, final, stub, worker
from tests.unit.data.s3_server import s3_server

ROWS = {"train": 1003, "validation": 200, "test": 300}  # no multiple of batch, row group, or workers
STEPS = 60


def table_program(folder: str) -> Program:
    program = Program(module="headrace_examples.table:Table")
    program.config.update({"folder": folder, "features": ["a", "b", "c"], "target": "kind", "classes": 2})
    return program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose class is the sign of a sum, sorted by class: read in the order of the file, little could be learnt."""
    folder = tmp_path_factory.mktemp("table")
    for seed, (split, rows) in enumerate(ROWS.items()):
        numbers = np.random.default_rng(seed).normal(size=(rows, 3))
        numbers = numbers[np.argsort(numbers.sum(1))]
        (folder / split).mkdir()
        kinds = (numbers.sum(1) > 0).astype(np.int64)
        table = pa.table({"a": numbers[:, 0], "b": numbers[:, 1], "c": numbers[:, 2], "kind": kinds})
        pq.write_table(table.slice(0, 500), folder / split / "0.parquet", row_group_size=64)
        pq.write_table(table.slice(500), folder / split / "1.parquet", row_group_size=64)
    return folder


def succeeded(task: Task) -> Task:
    assert task.state == TaskState.TASK_STATE_SUCCEEDED, task.failure
    return task


def test_two_workers_end_where_one_does(running: World, folder: Path) -> None:
    program, versions = table_program(str(folder)), []
    for workers in (1, 2):
        requests = [
            running.request(
                program,
                "",
                steps=STEPS,
                rank=rank,
                world_size=workers,
                batch_size=50,
                model=f"projects/default/models/streamed-{workers}",
            )
            for rank in range(workers)
        ]
        store = running.create_store(ADAMW, workers=workers)
        for request in requests:
            request.store = store
        lead, *_ = [succeeded(task) for task in running.run(*requests)]
        versions.append(running.registry.get_version(lead.result.version))
    alone, together = map(running.weights, versions)
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, rtol=0, atol=1e-5)


def test_a_run_resumed_from_its_checkpoint_equals_one_without_a_break(running: World, folder: Path) -> None:
    """Checkpoints hold the step, and the step is the position in the data: here in the second epoch."""
    program = table_program(str(folder))

    def run(store: str, **changes: int | str) -> Task:
        (task,) = running.run(running.request(program, store, batch_size=50, **changes))  # type: ignore[arg-type]  # steps is among them
        return succeeded(task)

    whole = run(running.create_store(SGD, workers=1), steps=40, model="projects/default/models/whole-stream")
    half = run(running.create_store(SGD, workers=1), steps=25, checkpoint_every_steps=25)
    assert half.checkpoint.step == 25
    store = running.create_store(SGD, epoch=2, workers=1, snapshots=half.checkpoint.snapshots)
    resumed = run(store, steps=40, start_step=25, epoch=2, model="projects/default/models/resumed-stream")
    expected, found = (
        running.weights(running.registry.get_version(task.result.version)) for task in (whole, resumed)
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_workers_read_a_bucket_with_what_their_operator_told_them(
    running: World, folder: Path, tmp_path: Path
) -> None:
    """The program knows the URL alone; endpoint and keys are the node's."""
    with s3_server() as bucket, ExitStack() as stack:
        bucket.put_folder(folder, "table")
        options = tmp_path / "storage.json"
        options.write_text(json.dumps(bucket.options))
        started = [
            stack.enter_context(
                worker(tmp_path / str(rank), running.registry_address, OBJECT_STORAGE_FILE=str(options))
            )
            for rank in range(2)
        ]
        store = running.create_store(ADAMW, workers=2)
        program = table_program(f"s3://{bucket.name}/table")
        stubs = [stub(each.address, stack) for each in started]
        requests = [
            running.request(program, store, steps=200, rank=rank, world_size=2, batch_size=64)
            for rank in range(2)
        ]
        for each, request in zip(stubs, requests, strict=True):
            each.StartTask(request)
        lead, _ = [
            succeeded(final(each, request.name)) for each, request in zip(stubs, requests, strict=True)
        ]
    assert lead.result.metrics["accuracy"] > 0.9


def test_data_that_are_not_there_end_the_task_with_the_place(running: World, tmp_path: Path) -> None:
    request = running.request(
        table_program(str(tmp_path / "nowhere")), running.create_store(SGD, workers=1), steps=1
    )
    (task,) = running.run(request)
    assert task.failure.reason == "DATA_UNREADABLE"
    assert f"{tmp_path}/nowhere/train" in task.failure.message
