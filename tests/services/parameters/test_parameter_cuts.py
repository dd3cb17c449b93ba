"""Snapshots of several shards while workers push: all shards have the same pushes in them."""

import threading
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from headrace.errors import RunFinished
from headrace.parameters.answers import Snapshot
from headrace.parameters.client import ShardedStore
from headrace.parameters.operation import Operation
from headrace.parameters.ranges import length
from headrace.parameters.shard import ShardClient
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.wire import Piece
from headrace_parameters.core.state import ShardState
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    FolderOfArtifacts,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

WORKERS = SHARDS = 2
ASYNC = stores_pb2.CONSISTENCY_ASYNC
SSP = stores_pb2.CONSISTENCY_SSP
BSP = stores_pb2.CONSISTENCY_BSP


def create(
    servers: list[ParameterServer], consistency: stores_pb2.Consistency.ValueType, **more: int
) -> None:
    for index, server in enumerate(servers):
        request = create_request(
            shard_index=index,
            shard_count=len(servers),
            worker_count=WORKERS,
            consistency=consistency,
            learning_rate=1,
            **more,  # type: ignore[arg-type]  # numbers alone
        )
        server.stores.create(request)


def saved(folder: Path, snapshot: Snapshot) -> list[ShardState]:
    """Read what was saved of each shard."""
    states = []
    for name in snapshot.artifacts:
        with safe_open(folder / name.rpartition("/")[2], framework="pt") as file:
            tensors = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118 - not a dict
            states.append(ShardState.decode(tensors, file.metadata() or {}))
    return states


class Worker(threading.Thread):
    """Pushes one step after the other until it is told to stop."""

    def __init__(self, store: ShardedStore, *, waits: bool) -> None:
        super().__init__(daemon=True)
        self._store, self._waits = store, waits
        self.stopping = threading.Event()

    def run(self) -> None:
        with suppress(RunFinished):
            self._push()

    def _push(self) -> None:
        for step in count():
            if self.stopping.is_set():
                return
            if self._waits:
                self._store.push_pull(step, flat(1), samples=1)
            else:
                self._store.push(step, flat(1), samples=1)


@pytest.mark.parametrize(
    ("consistency", "more"), [(ASYNC, {}), (SSP, {"staleness_bound": 3}), (BSP, {"backup_workers": 1})]
)
def test_all_shards_are_saved_after_the_same_pushes_while_workers_go_on(
    servers: list[ParameterServer],
    connect: Connect,
    tmp_path: Path,
    consistency: stores_pb2.Consistency.ValueType,
    more: dict[str, int],
) -> None:
    create(servers, consistency, **more)
    reader = connect(*servers)
    reader.initialize(LAYOUT, flat())
    workers = [Worker(connect(*servers, worker=rank), waits=consistency != ASYNC) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    snapshots = [reader.snapshot() for _ in range(8)]
    for worker in workers:
        worker.stopping.set()
    workers[0].join(0.5)
    reader.finish_run()  # whoever waits for the other one

    assert all(snapshot.consistent for snapshot in snapshots)
    for snapshot in snapshots:
        first, second = saved(tmp_path, snapshot)
        assert first.version == second.version
        if consistency != BSP:  # there each shard may count another worker's gradient, of the same step
            assert first.last_steps == second.last_steps
            assert (first.values == -first.version).all()
            assert (second.values == -second.version).all()
    assert snapshots[-1].version > snapshots[0].version, "the run went on"


def test_a_push_that_has_reached_one_shard_is_waited_for_on_the_other(
    servers: list[ParameterServer], connect: Connect, tmp_path: Path
) -> None:
    create(servers, ASYNC)
    store = connect(*servers)
    store.initialize(LAYOUT, flat())
    push_to(servers[0], step=0)
    found: list[Snapshot] = []
    saving = threading.Thread(target=lambda: found.append(store.snapshot()))
    saving.start()
    push_to(servers[1], step=0)
    saving.join(20)

    assert found[0].consistent
    first, second = saved(tmp_path, found[0])
    assert first.last_steps == second.last_steps == {0: -1, 1: 0}


def test_a_worker_that_is_gone_in_the_middle_of_a_push_keeps_a_snapshot_waiting_only_so_long(
    servers: list[ParameterServer], connect: Connect, tmp_path: Path
) -> None:
    create(servers, ASYNC)
    store = connect(*servers)
    store.initialize(LAYOUT, flat())
    push_to(servers[0], step=0)

    snapshot = store.snapshot()

    assert not snapshot.consistent
    assert [state.last_steps[1] for state in saved(tmp_path, snapshot)] == [0, -1]
    store.push(0, flat(1), samples=1)  # the others go on


def push_to(server: ParameterServer, step: int) -> None:
    """Push as worker 1 to one shard alone."""
    index = server.stores.get(NAME).shard_index
    part = np.ones(length(ShardMap.first(LAYOUT.size, SHARDS).held(index)), np.float32)
    shard = ShardClient(server.channel, NAME, epoch=1, worker=1, shared_memory=False)
    shard.push(Operation(10), step, [Piece(0, part)], 1.0)


@pytest.mark.parametrize("count", [1, 3])
def test_a_checkpoint_of_two_shards_is_gone_on_from_by_another_number_of_them(
    servers: list[ParameterServer], connect: Connect, tmp_path: Path, count: int
) -> None:
    create(servers, ASYNC)
    store = connect(*servers)
    store.initialize(LAYOUT, flat())
    for step in range(3):
        store.push(step, flat(1), samples=1)
    artifacts = store.snapshot().artifacts

    with parameter_server(FolderOfArtifacts(tmp_path)) as another:
        shards = [*servers, another][:count]
        for index, server in enumerate(shards):
            place = {"epoch": 2, "shard_index": index, "shard_count": count}
            run = {"worker_count": WORKERS, "consistency": ASYNC, "learning_rate": 1}
            server.stores.create(create_request(snapshots=artifacts, **place, **run))  # type: ignore[arg-type]  # numbers
        with ShardedStore([server.channel for server in shards], NAME, epoch=2, worker=0) as late:
            assert late.pull().values.tolist() == flat(-3).tolist()
            late.push(2, flat(1), samples=1)
            assert late.pull().version == 3, "it was pushed before"
            assert late.push_pull(3, flat(1), samples=1).values.tolist() == flat(-4).tolist()
