"""Pushes and first values that must not go in, through a real server."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from headrace.errors import (
    DtypeMismatch,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NonFiniteValues,
    NotFound,
    OutOfRange,
    QuotaExceeded,
    ShapeMismatch,
    StaleEpoch,
)
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from tests.services.parameters.conftest import Connect, ready_store
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, create_request, flat


def test_values_of_another_model_are_refused(server: ParameterServer, connect: Connect) -> None:
    ready_store(server, connect)

    with pytest.raises(ShapeMismatch, match="use a new store for another model"):
        connect(server).initialize(FlatLayout((TensorSpec("x", (2,)),)), np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda store: store.push(0, flat(np.nan), 1),
            NonFiniteValues,
            "worker 0 for step 0 holds nan at offset 0",
        ),
        (lambda store: store.push(0, flat(-np.inf), 1), NonFiniteValues, "holds -inf"),
        (lambda store: store.push(1, flat(1), 1), OutOfRange, "step 1 is ahead of version 0; pull"),
        (lambda store: store.push(0, flat(1), -1), InvalidArgument, "samples is -1"),
        (lambda store: store.push(0, flat(1), np.nan), InvalidArgument, "samples is nan"),
        (lambda store: store.push(0, np.zeros(3, np.float32), 1), ShapeMismatch, r"shape \[3\]"),
        (lambda store: store.push(0, flat(1).astype(float), 1), DtypeMismatch, "float64"),
        (lambda store: store.pull(names=["nobody"]), InvalidArgument, "no tensor 'nobody'"),
    ],
)
def test_what_cannot_be_applied_is_refused_and_changes_nothing(
    server: ParameterServer,
    connect: Connect,
    use: Callable[[ShardedStore], object],
    error: type[HeadraceError],
    message: str,
) -> None:
    store = ready_store(server, connect)

    with pytest.raises(error, match=message):
        use(store)

    assert store.pull().version == 0
    assert store.pull().values.tolist() == flat(0).tolist()
    assert store.push_pull(0, flat(1), samples=1).version == 1


def test_first_values_that_are_not_finite_leave_the_store_empty(
    server: ParameterServer, connect: Connect
) -> None:
    server.stores.create(create_request())

    with pytest.raises(NonFiniteValues, match="the first values holds nan"):
        connect(server).initialize(LAYOUT, flat(np.nan))

    assert not server.stores.get(NAME).initialized


def test_an_unknown_worker_is_refused(server: ParameterServer, connect: Connect) -> None:
    ready_store(server, connect, worker_count=2)

    with pytest.raises(InvalidArgument, match="worker is 2; this store has workers 0 to 1"):
        connect(server, worker=2).push(0, flat(1), samples=1)


def test_an_old_epoch_is_refused_and_a_newer_one_must_be_created_first(
    server: ParameterServer, connect: Connect
) -> None:
    ready_store(server, connect, epoch=1)
    server.stores.create(create_request(epoch=2))

    with pytest.raises(StaleEpoch, match="belongs to epoch 2 now, the caller to 1"):
        connect(server, epoch=1).initialize(LAYOUT, flat(0))
    with pytest.raises(FailedPrecondition, match="call CreateStore with epoch 3 first"):
        connect(server, epoch=3).initialize(LAYOUT, flat(0))


def test_a_store_nobody_made_is_not_found(server: ParameterServer, connect: Connect) -> None:
    with pytest.raises(NotFound, match="projects/default/stores/run is not held by this process"):
        connect(server).initialize(LAYOUT, flat(0))


def test_a_push_before_the_first_values_is_refused(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request())
    header = parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1)

    with pytest.raises(FailedPrecondition, match="call Initialize first"):
        ParametersStub(server.channel).Push(iter([parameters_pb2.PushRequest(store=NAME, header=header)]))


def test_an_empty_stream_is_refused(server: ParameterServer) -> None:
    nothing: Iterator[parameters_pb2.InitializeRequest] = iter(())

    with pytest.raises(InvalidArgument):
        ParametersStub(server.channel).Initialize(nothing)


def test_a_chunk_out_of_place_is_refused(server: ParameterServer, connect: Connect) -> None:
    ready_store(server, connect)
    push = parameters_pb2.PushRequest(
        store=NAME,
        header=parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1),
        chunk=parameters_pb2.Chunk(offset=11, values=bytes(4)),
    )

    with pytest.raises(ShapeMismatch, match="4 bytes at offset 11 does not fit"):
        ParametersStub(server.channel).Push(iter([push]))


def test_a_model_that_does_not_fit_the_memory_is_refused(server: ParameterServer, connect: Connect) -> None:
    server.stores.create(create_request(momentum=0.9))
    layout = FlatLayout(
        (TensorSpec("weight", (1 << 17, 2)),)
    )  # 1 MiB of values, as much momentum; 1 MiB allowed

    with pytest.raises(QuotaExceeded, match="needs 2097152 bytes, the other stores have 0 of 1048576"):
        connect(server).initialize(layout, np.zeros(layout.size, np.float32))
