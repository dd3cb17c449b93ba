"""Shards that join and leave a store with replicas: whichever of the two processes of a shard is lost, nothing that was acknowledged is."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import HeadraceError, Unavailable
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import stores_pb2
from headrace.testing.patience import until
from headrace_parameters.peers import Peers, Steps
from tests.services.parameters.parameter_server import NAME, ParameterServer, create_request, parameter_server
from tests.services.parameters.replica_pair import REPLICA, cut_off, primary, replica
from tests.services.parameters.resharding_world import LAYOUT, gradient, reshard, start, worker_of
from tests.services.parameters.test_parameter_resharding_faults import DisturbedSteps, fail, trains_on

STEPS = 24


@dataclass
class Pair:
    """The two processes of a shard."""

    primary: ParameterServer
    replica: ParameterServer


class Pairs:
    """Pairs of processes that hold shards of one store, or shall."""

    def __init__(self, stack: ExitStack, folder: Path, **settings: Any) -> None:
        self._stack, self._folder, self._settings = stack, folder, {"durability": REPLICA, **settings}
        self._made = 0

    def start(self, peers: Peers | None = None) -> ParameterServer:
        self._made += 1
        folder = self._folder / str(self._made)
        return self._stack.enter_context(parameter_server(peers=peers, max_bytes=1 << 24, folder=folder))

    def make(self, index: int, count: int, *, joins: bool = False, peers: Peers | None = None) -> Pair:
        pair = Pair(self.start(peers), self.start(peers))
        for server, assignment in (
            (pair.replica, replica(1)),
            (pair.primary, primary(1, pair.replica.channel.address)),
        ):
            request = create_request(
                shard_index=index, shard_count=count, assignment=assignment, **self._settings
            )
            request.joins = joins
            server.stores.create(request)
        if joins:
            until(lambda: pair.primary.stores.get(NAME).replica_synced)
        return pair


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def primaries(pairs: Sequence[Pair]) -> list[ParameterServer]:
    return [pair.primary for pair in pairs]


def train(store: ShardedStore, number: int, at: Callable[[int], None] = lambda _: None) -> Floats:
    values = start()
    for step in range(STEPS):
        at(step)
        values = store.push_pull(step, gradient(number, step), samples=1 + number).values
    return values


@pytest.mark.parametrize("durability", [REPLICA, stores_pb2.DURABILITY_REPLICA_DISK])
def test_a_run_with_replicas_through_joins_and_leaves_ends_at_the_bits_of_an_untouched_one(
    stack: ExitStack, tmp_path: Path, durability: int
) -> None:
    pairs = Pairs(stack, tmp_path, worker_count=2, durability=durability, momentum=0.9)
    zero, one = pairs.make(0, 1), pairs.make(1, 2, joins=True)
    begun = {step: threading.Event() for step in range(STEPS)}
    with (
        worker_of([zero.primary]) as first,
        worker_of([zero.primary], 1) as second,
        ThreadPoolExecutor(2) as threads,
    ):
        first.initialize(LAYOUT, start())
        runs = [
            threads.submit(train, store, number, lambda step: begun[step].set())
            for number, store in enumerate((first, second))
        ]
        begun[5].wait(60)
        reshard(zero.primary, shards=[zero.primary], add=[one.primary])
        begun[14].wait(60)
        reshard(one.primary, shards=primaries([zero, one]), remove=[zero.primary], map_epoch=2)
        values = [run.result() for run in runs]

    with parameter_server(max_bytes=1 << 24) as server:
        server.stores.create(create_request(worker_count=2, momentum=0.9))
        with worker_of([server]) as first, worker_of([server], 1) as second, ThreadPoolExecutor(2) as threads:
            first.initialize(LAYOUT, start())
            expected = [threads.submit(train, store, number) for number, store in enumerate((first, second))]
            assert np.array_equal(values[0], expected[0].result())
    until(lambda: one.replica.stores.get(NAME).version == STEPS)
    assert [one.replica.stores.get(NAME).shard_map.epoch, zero.replica.stores.get(NAME).shard_map.epoch] == [
        3,
        3,
    ]


class Disturbed(Peers):
    """Does something before or after the process at an address is told to commit."""

    def __init__(self) -> None:
        super().__init__()
        self.address, self.when = "", ""
        self.disturb: Callable[[], None] = fail

    @contextmanager
    def participating(self, address: str, timeout_s: float) -> Iterator[Steps]:
        with super().participating(address, timeout_s) as steps:
            here = address == self.address
            yield DisturbedSteps(steps, ("commit", self.when), self.disturb) if here else steps


def cut_off_and_fail(server: ParameterServer) -> Callable[[], None]:
    """End a process's connections, and what it is about to do: others find it gone, itself lives on and knows nothing of that."""

    def disturb() -> None:
        cut_off(server)
        fail()

    return disturb


@pytest.mark.parametrize(("when", "epoch"), [("before", 1), ("after", 2)])
def test_the_replica_of_a_coordinator_that_is_lost_decides_as_it_was_told(
    stack: ExitStack, tmp_path: Path, when: str, epoch: int
) -> None:
    peers = Disturbed()
    pairs = Pairs(stack, tmp_path, learning_rate=1)
    zero, one = pairs.make(0, 1, peers=peers), pairs.make(1, 2, joins=True)
    peers.address, peers.when = zero.replica.channel.address, when
    peers.disturb = cut_off_and_fail(zero.primary)
    with worker_of([zero.primary]) as store:
        store.initialize(LAYOUT, start())
        store.push_pull(0, gradient(0, 0), samples=1)
        with pytest.raises(HeadraceError):
            reshard(zero.primary, shards=[zero.primary], add=[one.primary])
        assert zero.replica.stores.get(NAME).shard_map.epoch == epoch, "told, or not"

        zero.replica.assign(primary(2))

        trains_on(store, 1, start() - gradient(0, 0))
        assert zero.replica.stores.get(NAME).shard_map.epoch == epoch
        until(lambda: not one.primary.stores.get(NAME).next_map_epoch)
        assert one.primary.stores.get(NAME).shard_map.epoch == (2 if epoch == 2 else 0)


def test_a_shard_whose_primary_is_lost_before_it_hears_of_the_decision_goes_on_by_it_at_its_replica(
    stack: ExitStack, tmp_path: Path
) -> None:
    peers = Disturbed()
    pairs = Pairs(stack, tmp_path, learning_rate=1)
    zero, one, two = pairs.make(0, 2, peers=peers), pairs.make(1, 2), pairs.make(2, 3, joins=True)
    peers.address, peers.when = one.primary.channel.address, "before"
    peers.disturb = cut_off_and_fail(one.primary)
    with worker_of(primaries([zero, one])) as store:
        store.initialize(LAYOUT, start())
        store.push_pull(0, gradient(0, 0), samples=1)
        reshard(zero.primary, shards=primaries([zero, one]), add=[two.primary])

        one.replica.assign(primary(2))

        trains_on(store, 1, start() - gradient(0, 0))
        assert one.replica.stores.get(NAME).shard_map.epoch == 2


def test_a_replica_that_has_not_caught_up_keeps_the_old_map_in_force(
    stack: ExitStack, tmp_path: Path
) -> None:
    pairs = Pairs(stack, tmp_path, learning_rate=1)
    zero, one = pairs.make(0, 1), pairs.make(1, 2, joins=True)
    with worker_of([zero.primary]) as store:
        store.initialize(LAYOUT, start())
        zero.primary.assign(primary(2, "127.0.0.1:1"))

        with pytest.raises(Unavailable, match="has not caught up"):
            reshard(zero.primary, shards=[zero.primary], add=[one.primary])

        zero.primary.assign(primary(3))
        trains_on(store, 0, start())
        assert reshard(zero.primary, shards=[zero.primary], add=[one.primary]).shard_map.epoch == 2
        trains_on(store, 2, start() - gradient(0, 0) - gradient(0, 1))


def test_a_new_replica_of_a_shard_that_has_changed_its_map_takes_over(
    stack: ExitStack, tmp_path: Path
) -> None:
    pairs = Pairs(stack, tmp_path, learning_rate=1)
    zero, one = pairs.make(0, 1), pairs.make(1, 2, joins=True)
    with worker_of([zero.primary]) as store:
        store.initialize(LAYOUT, start())
        reshard(zero.primary, shards=[zero.primary], add=[one.primary])
        trains_on(store, 0, start())
        third = pairs.start()
        request = create_request(
            shard_index=1, shard_count=2, assignment=replica(2), durability=REPLICA, learning_rate=1
        )
        request.joins = True
        third.stores.create(request)
        one.primary.assign(primary(2, third.channel.address))
        until(lambda: one.primary.stores.get(NAME).replica_synced)
        store.push_pull(2, gradient(0, 2), samples=1)  # the client learns where the replica is
        cut_off(one.primary)

        third.assign(primary(3))

        trains_on(store, 3, start() - gradient(0, 0) - gradient(0, 1) - gradient(0, 2))
