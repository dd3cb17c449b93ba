"""Processes that die in the middle of a resharding: afterwards one map holds, the old or the new, and no gradient is lost or doubled."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import HeadraceError, Internal, StaleEpoch
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.resharding_pb2 import ParticipateRequest, ParticipateResponse
from headrace.testing.patience import until
from headrace_parameters.peers import Peers, Steps
from tests.services.parameters.parameter_process import service_process
from tests.services.parameters.parameter_server import NAME, create_request, parameter_server
from tests.services.parameters.resharding_world import (
    LAYOUT,
    create,
    gradient,
    reshard,
    reshard_when_free,
    start,
    worker_of,
)

POINTS = [(step, when) for step in ("hold", "settle", "stage") for when in ("before", "after")]


class DisturbedPeers(Peers):
    """Does something at one point of every stream that it leads."""

    def __init__(self, point: tuple[str, str], disturb: Callable[[], None]) -> None:
        super().__init__()
        self._point = point
        self._disturb = disturb

    @contextmanager
    def participating(self, address: str, timeout_s: float) -> Iterator[Steps]:
        with super().participating(address, timeout_s) as steps:
            yield DisturbedSteps(steps, self._point, self._disturb)


class DisturbedSteps:
    def __init__(self, steps: Steps, point: tuple[str, str], disturb: Callable[[], None]) -> None:
        self._steps = steps
        self._point = point
        self._disturb = disturb

    def take(self, request: ParticipateRequest) -> ParticipateResponse:
        step, when = self._point
        here = request.WhichOneof("step") == step
        if here and when == "before":
            self._disturb()
        answer = self._steps.take(request)
        if here and when == "after":
            self._disturb()
        return answer


def killing(process: subprocess.Popen[str]) -> Callable[[], None]:
    def kill() -> None:
        process.kill()
        process.wait()

    return kill


def fail() -> None:
    raise Internal("the coordinator stumbled here")


def trains_on(
    store: ShardedStore, from_version: int, values: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> None:
    """Take two more steps of plain SGD."""
    for step in (from_version, from_version + 1):
        values = values - gradient(0, step)
        assert np.array_equal(store.push_pull(step, gradient(0, step), samples=1).values, values)


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_shard_killed_before_it_has_joined_leaves_the_old_map_working(point: tuple[str, str]) -> None:
    with ExitStack() as stack:
        joiner, process = stack.enter_context(service_process("parameters"))
        peers = DisturbedPeers(point, killing(process))
        servers = [stack.enter_context(parameter_server(peers=peers)) for _ in range(2)]
        create(servers, learning_rate=1)
        with worker_of(servers) as store:
            store.initialize(LAYOUT, start())
            store.push_pull(0, gradient(0, 0), samples=1)

            with pytest.raises(HeadraceError):
                reshard(servers[0], shards=servers, add=[joiner])

            trains_on(store, 1, start() - gradient(0, 0))
            assert [server.stores.get(NAME).shard_map.epoch for server in servers] == [1, 1]


@pytest.mark.parametrize("point", [("commit", "before"), ("commit", "after")], ids="-".join)
def test_a_shard_killed_after_it_gave_away_its_values_leaves_the_new_map_working(
    point: tuple[str, str],
) -> None:
    with ExitStack() as stack:
        leaver, process = stack.enter_context(service_process("parameters"))
        server = stack.enter_context(parameter_server(peers=DisturbedPeers(point, killing(process))))
        server.stores.create(create_request(shard_count=2, learning_rate=1))
        with StoresClient(leaver) as stores:
            stores.create(create_request(shard_index=1, shard_count=2, learning_rate=1))
        with worker_of([server, leaver]) as store:
            store.initialize(LAYOUT, start())
            store.push_pull(0, gradient(0, 0), samples=1)

            reshard(server, shards=[server, leaver], remove=[leaver])

            trains_on(store, 1, start() - gradient(0, 0))
            assert server.stores.get(NAME).shard_map.epoch == 2


@pytest.mark.parametrize("point", POINTS, ids="-".join)
def test_a_coordinator_that_fails_before_it_has_decided_leaves_the_old_map_working(
    point: tuple[str, str],
) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(parameter_server(peers=DisturbedPeers(point, fail))) for _ in range(3)]
        create(servers[:2], learning_rate=1)
        with worker_of(servers[:2]) as store:
            store.initialize(LAYOUT, start())
            store.push_pull(0, gradient(0, 0), samples=1)

            with pytest.raises(Internal, match="stumbled"):
                reshard(servers[0], shards=servers[:2], add=servers[2:])

            trains_on(store, 1, start() - gradient(0, 0))
            assert [server.stores.get(NAME).shard_map.epoch for server in servers[:2]] == [1, 1]
            until(lambda: not any(server.stores.get(NAME).next_map_epoch for server in servers))  # they ask


@pytest.mark.parametrize("when", ["before", "after"])
def test_shards_that_are_not_told_of_the_decision_ask_for_it(when: str) -> None:
    with ExitStack() as stack:
        peers = DisturbedPeers(("commit", when), fail)
        servers = [stack.enter_context(parameter_server(peers=peers)) for _ in range(3)]
        create(servers[:2], learning_rate=1)
        with worker_of(servers[:2]) as store:
            store.initialize(LAYOUT, start())
            store.push_pull(0, gradient(0, 0), samples=1)

            reshard(servers[0], shards=servers[:2], add=servers[2:])

            trains_on(store, 1, start() - gradient(0, 0))
            assert [server.stores.get(NAME).shard_map.epoch for server in servers] == [2, 2, 2]


class FetchesFromTheDying(Peers):
    """The source is killed when it has given what was asked of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__()
        self._kill = killing(process)

    def fetch(self, *args: Any) -> None:
        super().fetch(*args)
        self._kill()


def test_a_coordinator_that_is_killed_takes_its_values_with_it_and_the_next_attempt_begins_at_once() -> None:
    """What waits for its decision gives way to a greater epoch."""
    with ExitStack() as stack:
        coordinator, process = stack.enter_context(service_process("parameters"))
        other = stack.enter_context(parameter_server(peers=FetchesFromTheDying(process)))
        with StoresClient(coordinator) as stores:
            stores.create(create_request())
        with ShardedStore([coordinator], NAME, epoch=1, worker=0) as store:
            store.initialize(LAYOUT, start())

        with pytest.raises(HeadraceError):
            reshard(coordinator, shards=[coordinator], add=[other])

        other.stores.create(create_request(epoch=2))
        with worker_of([other]) as late, pytest.raises(StaleEpoch):
            late.initialize(LAYOUT, start())


def test_a_durable_shard_that_is_killed_before_it_hears_of_the_decision_finds_it_out_when_it_is_back(
    tmp_path: Path,
) -> None:
    kept = {"DATA_DIR": str(tmp_path / "joiner")}
    with ExitStack() as stack:
        joiner, process = stack.enter_context(service_process("parameters", **kept))
        peers = DisturbedPeers(("commit", "before"), killing(process))
        server = stack.enter_context(parameter_server(peers=peers, folder=tmp_path / "coordinator"))
        create([server], learning_rate=1, durability=stores_pb2.DURABILITY_PROCESS)
        with worker_of([server]) as store:
            store.initialize(LAYOUT, start())
            store.push_pull(0, gradient(0, 0), samples=1)

            reshard(server, shards=[server], add=[joiner])
            stack.enter_context(service_process("parameters", ADDRESS=joiner, **kept))

            trains_on(store, 1, start() - gradient(0, 0))
            with StoresClient(joiner) as stores:
                assert stores.get(NAME).shard_map.epoch == 2


def test_a_durable_coordinator_that_is_killed_before_it_has_decided_comes_back_with_the_old_map_and_the_others_go_on_by_it(
    tmp_path: Path,
) -> None:
    kept = {"DATA_DIR": str(tmp_path / "coordinator")}
    with ExitStack() as stack:
        coordinator, process = stack.enter_context(service_process("parameters", **kept))
        joiner = stack.enter_context(
            parameter_server(peers=FetchesFromTheDying(process), folder=tmp_path / "joiner")
        )
        with StoresClient(coordinator) as stores:
            stores.create(create_request(learning_rate=1, durability=stores_pb2.DURABILITY_DISK))
        with worker_of([coordinator]) as store:
            store.initialize(LAYOUT, start())
            values = start() - gradient(0, 0)
            store.push_pull(0, gradient(0, 0), samples=1)

            with pytest.raises(HeadraceError):
                reshard(coordinator, shards=[coordinator], add=[joiner])
            stack.enter_context(service_process("parameters", ADDRESS=coordinator, **kept))

            trains_on(store, 1, values)
            reshard_when_free(coordinator, shards=[coordinator], add=[joiner])
            trains_on(store, 3, values - gradient(0, 1) - gradient(0, 2))
