"""Durable shards of which one cannot take its step: nothing is left of a change that is given up, and one that is decided comes in the end."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import QuotaExceeded
from headrace.names import StoreName
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.resharding_pb2 import ParticipateRequest, ParticipateResponse
from headrace.testing.patience import until
from headrace_parameters.peers import Peers, Steps
from tests.services.parameters.parameter_server import NAME, ParameterServer, parameter_server
from tests.services.parameters.resharding_world import (
    LAYOUT,
    create,
    gradient,
    reshard,
    reshard_when_free,
    start,
    worker_of,
)


class FirstRefused(Peers):
    """The first shard that is asked to stage refuses while the coordinator is amid the same, which goes on when the streams end."""

    def __init__(self) -> None:
        super().__init__()
        self._fetched, self._over = threading.Event(), threading.Event()

    @contextmanager
    def participating(self, address: str, timeout_s: float) -> Iterator[Steps]:
        with super().participating(address, timeout_s) as steps:
            try:
                yield steps if self._over.is_set() else RefusesToStage(steps, self._fetched)
            finally:
                self._over.set()

    def fetch(self, *args: Any) -> None:
        super().fetch(*args)
        self._fetched.set()
        self._over.wait()


class RefusesToStage:
    def __init__(self, steps: Steps, amid: threading.Event) -> None:
        self._steps, self._amid = steps, amid

    def take(self, request: ParticipateRequest) -> ParticipateResponse:
        if request.HasField("stage"):
            self._amid.wait()
            raise QuotaExceeded("there is no room for it here")
        return self._steps.take(request)


class Hindered(Peers):
    """Whoever is told to commit finds something in the way."""

    def __init__(self, obstacle: Path) -> None:
        super().__init__()
        self._obstacle = obstacle

    @contextmanager
    def participating(self, address: str, timeout_s: float) -> Iterator[Steps]:
        with super().participating(address, timeout_s) as steps:
            yield HinderedSteps(steps, self._obstacle)


class HinderedSteps:
    def __init__(self, steps: Steps, obstacle: Path) -> None:
        self._steps, self._obstacle = steps, obstacle

    def take(self, request: ParticipateRequest) -> ParticipateResponse:
        if request.HasField("commit"):
            self._obstacle.mkdir()
            (self._obstacle / "something").touch()
        return self._steps.take(request)


@contextmanager
def two_durable_servers(folder: Path, peers: Peers) -> Iterator[list[ParameterServer]]:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(parameter_server(peers=peers, folder=folder / str(index)))
            for index in range(2)
        ]
        create(servers, learning_rate=1, durability=stores_pb2.DURABILITY_PROCESS)
        yield servers


def test_a_coordinator_that_hears_of_a_refusal_amid_its_own_staging_leaves_nothing_in_the_way_of_the_next_try(
    tmp_path: Path,
) -> None:
    with two_durable_servers(tmp_path, FirstRefused()) as servers, worker_of(servers) as store:
        store.initialize(LAYOUT, start())
        store.push_pull(0, gradient(0, 0), samples=1)

        with pytest.raises(QuotaExceeded):
            reshard(servers[0], shards=servers, remove=servers[1:])

        assert not list(tmp_path.rglob("*.staged"))
        reshard_when_free(servers[0], shards=servers, remove=servers[1:])
        values = start() - gradient(0, 0) - gradient(0, 1)
        assert (store.push_pull(1, gradient(0, 1), samples=1).values == values).all()


def test_a_shard_that_cannot_commit_when_it_is_told_does_so_as_soon_as_it_can(tmp_path: Path) -> None:
    name = StoreName.parse(NAME)
    obstacle = tmp_path / "1" / name.project / name.store / "1.2"
    with two_durable_servers(tmp_path, Hindered(obstacle)) as servers, worker_of(servers) as store:
        store.initialize(LAYOUT, start())
        reshard(servers[0], shards=servers, remove=servers[1:])
        assert servers[1].stores.get(NAME).shard_map.epoch == 1

        obstacle.rename(tmp_path / "aside")

        until(lambda: servers[1].stores.get(NAME).shard_map.epoch == 2)
