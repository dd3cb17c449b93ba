"""Durable stores through the service: what a new process of the same folder holds, and what becomes of the files."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    RunFinished,
    StaleEpoch,
    StorageFull,
)
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.v1 import stores_pb2
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_process import service_process
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    FolderOfArtifacts,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

LEVELS = [stores_pb2.DURABILITY_PROCESS, stores_pb2.DURABILITY_DISK]
PROCESS = stores_pb2.DURABILITY_PROCESS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "parameters"


@pytest.fixture
def durable(folder: Path) -> Iterator[ParameterServer]:
    with parameter_server(folder=folder) as server:
        yield server


def epochs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "default" / "run").iterdir())


def begun(server: ParameterServer, connect: Connect, **request: object) -> ShardedStore:
    """Make a store with two steps taken."""
    server.stores.create(create_request(**request))  # type: ignore[arg-type]  # named by each test
    store = connect(server, epoch=request.get("epoch", 1))
    store.initialize(LAYOUT, flat(1))
    for step in range(2):
        store.push(step, flat(0.25 + step), samples=4)
    return store


@pytest.mark.parametrize("durability", LEVELS)
def test_a_new_process_of_the_folder_goes_on_where_the_old_one_ended(
    folder: Path, connect: Connect, durability: stores_pb2.Durability.ValueType
) -> None:
    request = create_request(momentum=0.9, durability=durability)
    with parameter_server() as other:
        begun(other, connect, momentum=0.9)
        expected = connect(other).push_pull(2, flat(3), samples=1)
    with parameter_server(folder=folder) as server:
        begun(server, connect, momentum=0.9, durability=durability)
        made = server.stores.get(NAME)
    with parameter_server(folder=folder) as server:
        assert server.stores.get(NAME) == made
        assert server.stores.create(request) == made, "the same request must find the recovered store"
        store = connect(server)
        assert store.push(1, flat(9), samples=1) == 2, "a push from before the end is a duplicate"
        found = store.push_pull(2, flat(3), samples=1)
    assert found.version == 3
    assert found.values.tobytes() == expected.values.tobytes()


def test_consistency_optimizer_and_schedule_come_back_with_the_store(folder: Path, connect: Connect) -> None:
    request = create_request(
        worker_count=2, consistency=stores_pb2.CONSISTENCY_SSP, staleness_bound=1, durability=PROCESS
    )
    request.optimizer.adagrad.learning_rate = 0.5
    request.optimizer.schedule.warmup_steps = 4
    with parameter_server(folder=folder) as server:
        made = server.stores.create(request)
        store = connect(server)
        store.initialize(LAYOUT, flat(1))
        store.push(0, flat(0.25), samples=4)
        store.push(1, flat(0.25), samples=4)
    with parameter_server(folder=folder) as server:
        found = server.stores.get(NAME)
        assert (found.consistency, found.staleness_bound) == (made.consistency, 1)
        assert found.optimizer == made.optimizer
        with pytest.raises(OutOfRange, match="more than 1 ahead"):
            connect(server).push(2, flat(0.25), samples=4)


def test_a_store_in_memory_leaves_no_files(folder: Path, connect: Connect, durable: ParameterServer) -> None:
    begun(durable, connect)
    assert not folder.exists()


@pytest.mark.parametrize("initialized", [True, False])
def test_a_run_that_is_over_stays_over_in_the_next_process(
    folder: Path, connect: Connect, initialized: bool
) -> None:
    """A process that is killed leaves the same files: they are whole before `finish_run` returns."""
    with parameter_server(folder=folder) as former:
        former.stores.create(create_request(durability=stores_pb2.DURABILITY_PROCESS))
        if initialized:
            connect(former).initialize(LAYOUT, flat())
        connect(former).finish_run()
        left = shutil.copytree(folder, folder.with_name("left"))

    with parameter_server(folder=left) as next_one:
        store = connect(next_one)
        store.finish_run()
        with pytest.raises(RunFinished, match="was ended by one of its workers"):
            store.pull() if initialized else store.initialize(LAYOUT, flat())
        next_one.stores.create(create_request(epoch=2, durability=stores_pb2.DURABILITY_PROCESS))
        connect(next_one, epoch=2).initialize(LAYOUT, flat())


def test_a_deleted_store_does_not_come_back(folder: Path, connect: Connect) -> None:
    with parameter_server(folder=folder) as server:
        begun(server, connect, durability=PROCESS)
        server.stores.delete(NAME, epoch=1)
        assert epochs(folder) == []
    with parameter_server(folder=folder) as server, pytest.raises(NotFound):
        server.stores.get(NAME)


@pytest.mark.parametrize("durability", [stores_pb2.DURABILITY_MEMORY, PROCESS])
def test_a_greater_epoch_removes_the_files_of_the_older_one(
    folder: Path, connect: Connect, durability: stores_pb2.Durability.ValueType
) -> None:
    with parameter_server(folder=folder) as server:
        old = begun(server, connect, durability=PROCESS)
        server.stores.create(create_request(epoch=2, durability=durability))
        assert epochs(folder) == (["2"] if durability == PROCESS else [])
        with pytest.raises(StaleEpoch):
            old.push(2, flat(1), samples=1)
    with parameter_server(folder=folder) as server:
        assert [store.epoch for store in server.stores.list()] == ([2] if durability == PROCESS else [])


def test_a_store_made_from_a_snapshot_and_a_restored_one_come_back_as_they_were(
    folder: Path, tmp_path: Path, connect: Connect
) -> None:
    artifacts = FolderOfArtifacts(tmp_path)
    with parameter_server(artifacts, folder=folder) as server:
        snapshot = begun(server, connect, durability=PROCESS).snapshot().artifacts[0]
        server.stores.create(create_request(epoch=2, durability=PROCESS, snapshots=[snapshot]))
        connect(server, epoch=2).push(2, flat(1), samples=1)
    with parameter_server(artifacts, folder=folder) as server:
        assert server.stores.get(NAME).version == 3
        restored = server.stores.restore(NAME, snapshot, epoch=2)
        values = connect(server, epoch=2).pull().values
    with parameter_server(artifacts, folder=folder) as server:
        assert server.stores.get(NAME) == restored
        assert connect(server, epoch=2).pull().values.tobytes() == values.tobytes()


def test_what_cannot_be_trusted_is_not_served_and_not_made_anew_in_its_epoch(
    folder: Path, connect: Connect
) -> None:
    with parameter_server(folder=folder) as server:
        begun(server, connect, durability=PROCESS)
    log = max((folder / "default" / "run" / "1").glob("log-*"))
    log.write_bytes(b"X" + log.read_bytes()[1:])

    with parameter_server(folder=folder) as server:
        with pytest.raises(NotFound):
            server.stores.get(NAME)
        with pytest.raises(DataLoss, match="go on from a checkpoint in a greater epoch"):
            server.stores.create(create_request(durability=PROCESS))
        server.stores.create(create_request(epoch=2, durability=PROCESS))
        assert epochs(folder) == ["2"]


def test_a_damaged_manifest_is_refused_and_can_be_deleted(folder: Path, connect: Connect) -> None:
    with parameter_server(folder=folder) as server:
        begun(server, connect, durability=PROCESS)
    manifest = folder / "default" / "run" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.5", "0.6"))
    with parameter_server(folder=folder) as server:
        with pytest.raises(DataLoss, match="checksum"):
            server.stores.create(create_request(durability=PROCESS))
        server.stores.delete(NAME)
        server.stores.create(create_request(durability=PROCESS))


def test_two_processes_do_not_share_a_folder(
    folder: Path, connect: Connect, durable: ParameterServer
) -> None:
    begun(durable, connect, durability=PROCESS)
    with parameter_server(folder=folder) as second:
        with pytest.raises(FailedPrecondition, match="another process keeps its stores"):
            second.stores.create(create_request(durability=PROCESS))
        with pytest.raises(NotFound):
            second.stores.delete(NAME)
        second.stores.create(create_request())
    assert durable.stores.get(NAME).version == 2
    assert epochs(folder) == ["1"]


def test_half_made_and_half_removed_folders_are_swept(folder: Path, connect: Connect) -> None:
    with parameter_server(folder=folder) as server:
        begun(server, connect, durability=PROCESS)
    parent = folder / "default" / "run"
    for name in ("2.abc.new", "1.gone", "0"):
        (parent / name).mkdir()
    with parameter_server(folder=folder) as server:
        assert server.stores.get(NAME).version == 2
        assert epochs(folder) == ["1"]


def test_a_recovered_store_nobody_asks_for_is_swept_and_one_in_use_is_not(
    folder: Path, connect: Connect
) -> None:
    other = "projects/default/stores/used"
    with parameter_server(folder=folder) as server:
        begun(server, connect, durability=PROCESS)
        server.stores.create(create_request(name=other, durability=PROCESS))
    with parameter_server(folder=folder) as server:
        server.stores.get(other)
        server.stores.create(create_request(name=f"{NAME}-2", durability=PROCESS))
        assert [str(name) for name in server.table.sweep()] == [NAME]
        assert [store.name for store in server.stores.list()] == [f"{NAME}-2", other]
        assert epochs(folder) == []


def test_a_full_disk_refuses_the_push_and_leaves_the_store_readable(folder: Path) -> None:
    """A limit on the size of files stands for the disk."""
    with (
        service_process("parameters", DATA_DIR=str(folder)) as (address, process),
        StoresClient(address) as stores,
        ShardedStore([address], NAME, epoch=1, worker=0) as store,
    ):
        stores.create(create_request(durability=PROCESS))
        store.initialize(LAYOUT, flat(1))
        before = store.push_pull(0, flat(1), samples=1)
        size = max((folder / "default" / "run" / "1").glob("log-*")).stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
        with pytest.raises(StorageFull, match="nothing was applied"):
            store.push(1, flat(1), samples=1)
        after = store.pull()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        last = store.push_pull(1, flat(1), samples=1)
    assert (after.version, after.values.tolist()) == (1, before.values.tolist())
    assert last.version == 2


def test_the_log_the_lag_and_the_times_are_counted(durable: ParameterServer, connect: Connect) -> None:
    begun(durable, connect, durability=stores_pb2.DURABILITY_DISK)
    label = {"store": NAME}
    log_bytes = durable.metrics.get_sample_value("headrace_parameters_log_bytes", label)
    assert log_bytes is not None
    assert log_bytes > 2 * 4 * LAYOUT.size
    assert durable.metrics.get_sample_value("headrace_parameters_log_lag_bytes", label) == 0
    assert durable.counted("fsync_seconds_count") >= 2


def test_a_process_level_store_shows_what_the_machine_could_lose(
    durable: ParameterServer, connect: Connect
) -> None:
    begun(durable, connect, durability=PROCESS)
    lag = durable.metrics.get_sample_value("headrace_parameters_log_lag_bytes", {"store": NAME})
    assert lag == durable.metrics.get_sample_value("headrace_parameters_log_bytes", {"store": NAME})


def test_a_process_that_is_told_to_stop_leaves_its_stores_for_the_next(folder: Path) -> None:
    with service_process("parameters", DATA_DIR=str(folder)) as (address, process):
        with ShardedStore([address], NAME, epoch=1, worker=0) as store:
            with StoresClient(address) as stores:
                stores.create(create_request(durability=PROCESS))
            store.initialize(LAYOUT, flat(0))
            store.push(0, np.ones(LAYOUT.size, np.float32), samples=1)
        process.terminate()
        assert process.wait(60) == 0
    with (
        service_process("parameters", DATA_DIR=str(folder)) as (address, _),
        ShardedStore([address], NAME, epoch=0, worker=0) as store,
    ):
        assert store.pull().version == 1
