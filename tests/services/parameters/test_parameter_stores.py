"""Making, listing, deleting, saving and restoring stores through a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.errors import (
    AlreadyExists,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
    StaleEpoch,
)
from headrace.parameters.shard_map import ShardMap
from headrace.parameters.v1 import stores_pb2, stores_pb2_grpc
from headrace.parameters.wire import map_from_proto
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)


def test_a_new_store_is_empty_and_says_what_it_is(server: ParameterServer) -> None:
    request = create_request(shard_index=1, shard_count=3, worker_count=4, momentum=0.9)

    store = server.stores.create(request)

    assert store.create_time.seconds > 0
    store.ClearField("create_time")
    assert store == stores_pb2.Store(
        name=NAME,
        epoch=1,
        shard_index=1,
        shard_count=3,
        worker_count=4,
        consistency=stores_pb2.CONSISTENCY_BSP,
        optimizer=request.optimizer,
        durability=stores_pb2.DURABILITY_MEMORY,
        workers=range(4),
    )


def test_a_store_with_values_tells_their_layout_and_size(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request(momentum=0.9))
    connect(server).initialize(LAYOUT, flat())

    store = server.stores.get(NAME)

    assert store.initialized
    assert [(tensor.name, list(tensor.shape)) for tensor in store.tensors] == [
        ("weight", [3, 2]),
        ("bias", []),
        ("scale", [4]),
    ]
    assert (store.length, store.size_bytes) == (11, 11 * 4 * 2)
    assert map_from_proto(store.shard_map) == ShardMap.first(11, 1)


def test_defaults_of_adamw_are_filled_in(server: ParameterServer) -> None:
    request = create_request()
    request.optimizer.adamw.learning_rate = 0.01

    adamw = server.stores.create(request).optimizer.adamw

    assert (adamw.beta1, adamw.beta2, adamw.epsilon) == (0.9, 0.999, 1e-8)


def test_creating_a_store_again_returns_it_as_it_is(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request())
    store = connect(server)
    store.initialize(LAYOUT, flat())
    store.push_pull(0, flat(1), samples=1)

    assert server.stores.create(create_request()).version == 1


def test_a_greater_epoch_replaces_a_store_and_a_smaller_one_is_refused(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request(epoch=2))
    connect(server, epoch=2).initialize(LAYOUT, flat())

    replaced = server.stores.create(create_request(epoch=3, learning_rate=0.1))

    assert not replaced.initialized
    with pytest.raises(StaleEpoch):
        server.stores.create(create_request(epoch=2))


def test_the_same_epoch_with_other_settings_is_refused(server: ParameterServer) -> None:
    server.stores.create(create_request())

    with pytest.raises(AlreadyExists, match="use a greater epoch"):
        server.stores.create(create_request(learning_rate=0.1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda request: request.ClearField("optimizer"), "optimizer"),
        (lambda request: request.ClearField("consistency"), "consistency"),
        (lambda request: request.ClearField("epoch"), "epoch"),
        (lambda request: request.ClearField("name"), "name"),
        (lambda request: request.optimizer.sgd.ClearField("learning_rate"), "optimizer.sgd.learning_rate"),
        (lambda request: request.MergeFrom(stores_pb2.CreateStoreRequest(snapshots=["x"])), "snapshots"),
    ],
)
def test_a_request_that_cannot_be_names_its_field(
    server: ParameterServer, change: Callable[[stores_pb2.CreateStoreRequest], object], field: str
) -> None:
    request = create_request()
    change(request)

    with pytest.raises(InvalidArgument) as refused:
        server.stores.create(request)

    assert refused.value.field == field


def test_stores_are_listed_by_name_in_pages(server: ParameterServer) -> None:
    for store in ("c", "a", "b"):
        server.stores.create(create_request(name=f"projects/default/stores/{store}"))
    server.stores.create(create_request(name="projects/other/stores/d"))
    stub = stores_pb2_grpc.StoresStub(server.channel)

    first = stub.ListStores(stores_pb2.ListStoresRequest(parent="projects/default", page_size=2))
    second = stub.ListStores(
        stores_pb2.ListStoresRequest(parent="projects/default", page_size=2, page_token=first.next_page_token)
    )

    assert [store.name[-1] for store in first.stores] == ["a", "b"]
    assert [store.name[-1] for store in second.stores] == ["c"]
    assert second.next_page_token == ""
    assert [store.name[-1] for store in server.stores.list("other")] == ["d"]


def test_a_deleted_store_is_gone_and_its_memory_free() -> None:
    with parameter_server(max_stores=1) as server:
        server.stores.create(create_request())
        other = create_request(name="projects/default/stores/other")
        with pytest.raises(QuotaExceeded, match="HEADRACE_PARAMETERS_SLOTS"):
            server.stores.create(other)

        server.stores.delete(NAME, epoch=1)

        server.stores.create(other)
        with pytest.raises(NotFound):
            server.stores.get(NAME)
        with pytest.raises(NotFound):
            server.stores.delete(NAME)


def test_an_old_epoch_deletes_nothing(server: ParameterServer) -> None:
    server.stores.create(create_request(epoch=2))

    with pytest.raises(StaleEpoch):
        server.stores.delete(NAME, epoch=1)

    assert server.stores.get(NAME).epoch == 2


def test_a_snapshot_continues_in_another_process_to_the_last_bit(
    servers: list[ParameterServer], connect: Connect
) -> None:
    first, second = servers
    first.stores.create(create_request(momentum=0.9))
    run = connect(first)
    run.initialize(LAYOUT, flat(1))
    run.push_pull(0, flat(0.3), samples=1)

    snapshot = run.snapshot()
    second.stores.create(create_request(momentum=0.9, epoch=2, snapshots=[snapshot.artifacts[0]]))
    continued = connect(second, epoch=2)

    assert snapshot.version == continued.pull().version == 1
    assert continued.initialize(LAYOUT, flat(77)) == 1
    there, here = (store.push_pull(1, flat(0.7), samples=1) for store in (continued, run))
    assert there.values.tolist() == here.values.tolist()
    assert there.version == 2


def test_restore_goes_back(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request())
    run = connect(server)
    run.initialize(LAYOUT, flat(1))
    (artifact,) = run.snapshot().artifacts
    run.push_pull(0, flat(1), samples=1)

    assert server.stores.restore(NAME, artifact, epoch=1).version == 0
    assert run.pull().values.tolist() == flat(1).tolist()


def test_a_snapshot_leaves_no_file_behind(
    server: ParameterServer, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    server.stores.create(create_request())
    run = connect(server)
    run.initialize(LAYOUT, flat(1))

    server.stores.restore(NAME, run.snapshot().artifacts[0], epoch=1)

    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda server: server.stores.restore(NAME, "nonsense", epoch=1),
            InvalidArgument,
            "artifact 'nonsense'",
        ),
        (
            lambda server: server.stores.restore(NAME, f"projects/default/artifacts/{'0' * 64}", epoch=1),
            NotFound,
            "does not exist",
        ),
        (
            lambda server: server.stores.restore(NAME, f"projects/other/artifacts/{'0' * 64}", epoch=1),
            InvalidArgument,
            "is not of project 'default'",
        ),
        (
            lambda server: server.stores.create(
                create_request(epoch=2, snapshots=[f"projects/other/artifacts/{'0' * 64}"])
            ),
            InvalidArgument,
            "is not of project 'default'",
        ),
        (lambda server: _snapshot(server, epoch=1), FailedPrecondition, "no values to save yet"),
        (lambda server: _snapshot(server, epoch=0), StaleEpoch, "the caller to 0"),
    ],
)
def test_what_cannot_be_saved_or_restored_is_refused(
    server: ParameterServer,
    use: Callable[[ParameterServer], object],
    error: type[HeadraceError],
    message: str,
) -> None:
    server.stores.create(create_request())

    with pytest.raises(error, match=message):
        use(server)


def _snapshot(server: ParameterServer, epoch: int) -> None:
    stores_pb2_grpc.StoresStub(server.channel).Snapshot(stores_pb2.SnapshotRequest(name=NAME, epoch=epoch))


def test_bytes_that_are_no_snapshot_are_refused(server: ParameterServer, tmp_path: Path) -> None:
    (tmp_path / ("0" * 64)).write_bytes(b"not safetensors")
    server.stores.create(create_request())

    with pytest.raises(InvalidArgument, match="is not a safetensors file"):
        server.stores.restore(NAME, f"projects/default/artifacts/{'0' * 64}", epoch=1)


def test_without_a_registry_a_snapshot_tells_how_to_get_one(connect: Connect) -> None:
    with parameter_server() as server:
        server.stores.create(create_request())
        store = connect(server)
        store.initialize(LAYOUT, flat())

        with pytest.raises(FailedPrecondition, match="HEADRACE_PARAMETERS_REGISTRY_ADDRESS"):
            store.snapshot()
