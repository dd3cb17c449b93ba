"""Projects on one process: what they may have and do, and what is told of their stores."""

import time
from collections.abc import Iterator
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from headrace.errors import QuotaExceeded
from headrace.parameters.client import ShardedStore
from headrace.parameters.v1 import parameters_pb2, stores_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from headrace.testing import FakeClock
from headrace_parameters.core.quota import ProjectQuota
from headrace_parameters.quotas import Quotas
from tests.services.parameters.parameter_server import (
    LAYOUT,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)

ASYNC = stores_pb2.CONSISTENCY_ASYNC
NEEDED = 4 * LAYOUT.size


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(clock: FakeClock) -> Iterator[ParameterServer]:
    quotas = Quotas(
        ProjectQuota(),
        {
            "slow": ProjectQuota(calls_per_s=3),
            "thin": ProjectQuota(bytes_per_s=100),
            "small": ProjectQuota(max_bytes=2 * NEEDED),
        },
        lambda: clock.now,
    )
    with parameter_server(quotas=quotas, max_stores=8) as served:
        yield served


def open_store(
    server: ParameterServer, project: str, transport: str = "stream", timeout_s: float = 0.3
) -> ShardedStore:
    """Initialize a store: one call."""
    name = f"projects/{project}/stores/run"
    server.stores.create(create_request(name=name, consistency=ASYNC, learning_rate=1))
    shared = transport == "shared memory"
    store = ShardedStore([server.channel], name, epoch=1, worker=0, timeout_s=timeout_s, shared_memory=shared)
    store.initialize(LAYOUT, flat(0))
    return store


def test_a_project_that_calls_too_often_is_told_when_to_come_again(
    server: ParameterServer, clock: FakeClock, transport: str
) -> None:
    with open_store(server, "slow", transport) as slow, open_store(server, "default", transport) as other:
        slow.push(0, flat(1), samples=1)
        slow.push(1, flat(1), samples=1)
        with pytest.raises(QuotaExceeded, match="has used its calls_per_s of 3") as refused:
            slow.push(2, flat(1), samples=1)
        assert refused.value.retry_after_s == pytest.approx(1 / 3)
        other.push(0, flat(1), samples=1)

        clock.advance(10)
        assert slow.pull().version == 2  # nothing of the third was applied
        assert slow.push(2, flat(1), samples=1) == 3


def test_a_refusal_has_quota_failure_and_retry_info(server: ParameterServer) -> None:
    with open_store(server, "slow") as store:
        store.pull()
        store.pull()
    plain = grpc.insecure_channel(server.channel.address)
    request = parameters_pb2.PullRequest(store="projects/slow/stores/run")
    with plain, pytest.raises(grpc.RpcError) as refused:
        next(ParametersStub(plain).Pull(request, timeout=5))

    error = cast("Any", refused.value)  # a call too, as gRPC's always are
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(quota) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert quota.violations[0].subject == "projects/slow"
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 1 / 3


def test_a_client_waits_as_it_is_told() -> None:
    """With a clock that goes on by itself, as every real one: 8 calls at 20 a second, after a burst of 20."""
    quotas = Quotas(ProjectQuota(calls_per_s=20), {}, time.monotonic)
    with parameter_server(quotas=quotas) as server, open_store(server, "default", timeout_s=10) as store:
        began = time.monotonic()
        for step in range(28):
            store.push(step, flat(1), samples=1)

        assert time.monotonic() - began >= 8 / 20 * 0.9
        assert store.pull().version == 28


def test_bytes_count_both_ways(server: ParameterServer, clock: FakeClock, transport: str) -> None:
    """44 bytes of first values, 44 up, 44 down: 132 of 100 a second."""
    with open_store(server, "thin", transport) as store:
        store.push(0, flat(1), samples=1)
        store.pull()
        with pytest.raises(QuotaExceeded, match="has used its bytes_per_s of 100") as refused:
            store.pull()
        assert refused.value.retry_after_s == pytest.approx(0.33)
        clock.advance(0.34)
        assert store.pull().version == 1


def test_the_stores_of_a_project_share_its_memory(server: ParameterServer) -> None:
    names = [f"projects/small/stores/{name}" for name in "abc"]
    stores = []
    for name in names:
        server.stores.create(create_request(name=name))
        stores.append(ShardedStore([server.channel], name, epoch=1, worker=0, timeout_s=5))
    for store in stores[:2]:
        store.initialize(LAYOUT, flat(0))

    with pytest.raises(QuotaExceeded, match=rf"needs {NEEDED} bytes, and project 'small' has 0 left") as over:
        stores[2].initialize(LAYOUT, flat(0))

    assert over.value.metadata["subject"] == "projects/small"
    assert over.value.retry_after_s is None
    assert not server.stores.get(names[2]).initialized
    open_store(server, "default").close()  # others have room
    server.stores.delete(names[0])
    stores[2].initialize(LAYOUT, flat(0))
    for store in stores:
        store.close()


LABELS = {"store": "projects/default/stores/run"}


def told(server: ParameterServer, name: str) -> float | None:
    return server.metrics.get_sample_value(f"headrace_parameters_{name}", LABELS)


def test_every_store_has_lines_of_its_own_until_it_is_gone(server: ParameterServer) -> None:
    with open_store(server, "default", timeout_s=5) as store:
        store.push(0, flat(1), samples=1)
        store.push(0, flat(1), samples=1)
        store.pull(newer_than=store.pull())

        assert told(server, "store_pushes_total") == 1
        assert told(server, "store_duplicates_total") == 1
        assert told(server, "store_pulls_total") == 1
        assert told(server, "store_not_modified_total") == 1
        assert told(server, "store_received_bytes_total") == 2 * NEEDED
        assert told(server, "store_sent_bytes_total") == NEEDED
        assert told(server, "store_bytes") == NEEDED
        assert (told(server, "store_resident_bytes") or 0) >= 3 * NEEDED  # two versions and a gradient
        server.stores.create(create_request(name=LABELS["store"], epoch=2))
        assert told(server, "store_pushes_total") == 0
        server.stores.delete(LABELS["store"])
        assert told(server, "store_pushes_total") is None
        assert told(server, "store_bytes") is None


def test_how_far_workers_are_apart_is_told(server: ParameterServer) -> None:
    name = LABELS["store"]
    server.stores.create(create_request(name=name, consistency=ASYNC, worker_count=2))
    workers = [ShardedStore([server.channel], name, epoch=1, worker=worker) for worker in range(2)]
    workers[0].initialize(LAYOUT, flat(0))
    for step in range(4):
        workers[0].push(step, np.zeros(LAYOUT.size, np.float32), samples=1)
    workers[1].push(0, flat(0), samples=1)
    workers[1].pull(step=1)
    assert (told(server, "store_lag_steps"), told(server, "store_staleness_steps")) == (3, 0)
    workers[0].pull(step=4)

    assert (told(server, "store_lag_steps"), told(server, "store_staleness_steps")) == (3, 3)
    for worker in workers:
        worker.close()
